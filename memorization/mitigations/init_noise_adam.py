"""Starting noise with a low magnitude, image by image, by gradient descent (Han et al., per sample)."""

from typing import TYPE_CHECKING

import torch

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.first_step import Embeds, norms, output_diff
from memorization.needs import NOISE
from memorization.released import SD1, SD2, released_for
from optim_utils import descend, first_timestep

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

EVALS = 2  # of an iteration
# The code has the values for Stable Diffusion 1 as defaults. The paper has lr 0.1 and targets from 5 to 20 for 2.
RELEASED = {
    SD1: {"strength": 1000, "lr": 0.01, "target": 0.9, "guidance": 7},
    SD2: {"strength": 1000, "lr": 0.1, "target": 5, "guidance": 7},
}


@mitigation(
    "init_noise_adam",
    knob="AdamW steps on the starting noise",
    source="Han et al., NeurIPS 2025",
    largest=1000,
    sweep=(50, 100, 150, 300, 1000),
    cost=lambda iterations, steps: EVALS * round(iterations),
    stops=True,
    reads="latents",
    released=RELEASED,
    revision=2,
    needs=(NOISE,),
)
def lower_magnitude_generation(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Optimises the starting noise until the magnitude of the first step is at the target.

    Han et al., per sample. The target is `--optim_target_loss`, by default 0.9 on Stable Diffusion 1 and 5 on 2; the
    norm of the noise grows on the way, and is reported.
    """
    t, embeds = first_timestep(pipe, options.num_inference_steps), (images.negatives(), images.embeds())
    latents, iterations = lower_magnitude(pipe, images.latents, t, embeds, round(strength), options.optim_target_loss)
    evals = [EVALS * k for k in iterations]
    return always_acting(pipe, options, images, latents=latents, evals=evals, iterations=iterations)


def lower_magnitude(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    t: float,
    embeds: Embeds,
    num_iters: int,
    target_loss: float | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """Starting noise with a low D, by AdamW with its default weight decay.

    An image is done when the magnitude at its noise is at or below `target_loss`, by default the released one; the
    result of the last iteration is not tested, as in the released code.

    Args:
        latents: starting noise, (images, channels, height, width).
        embeds: of the empty prompt and of the prompt, each (images, tokens, dim).

    Returns:
        (latents, iterations of each image, a list). An iteration costs two evaluations and two gradients.
    """
    released = released_for(RELEASED, embeds[1])
    target = released["target"] if target_loss is None else target_loss

    def loss(x: torch.Tensor, rows: list[int]) -> torch.Tensor:
        return norms(output_diff(pipe, x, t, (embeds[0][rows], embeds[1][rows])))

    latents, losses = descend(pipe, latents, loss, torch.optim.AdamW, released["lr"], num_iters, target, gradients=2)
    return latents, [len(some) for some in losses]
