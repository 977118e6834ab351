"""A step out of the attraction basin before the generation, all images at once (Han et al., batch-wise)."""

from typing import TYPE_CHECKING

import torch

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import DelayedGuidance, ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.first_step import Embeds, output_diff, unit
from memorization.needs import NOISE
from memorization.released import SD1, SD1_NUMEL, SD2, SD2_NUMEL, family_of, size_scale
from optim_utils import first_timestep

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

EVALS = 4  # of a repetition
# The released code has the values for Stable Diffusion 1 as defaults, and counts the steps without guidance. The paper
# names timesteps instead, 900 and 917, which are the same five of its 50 steps; rho 30 and M 4 for 2 are the paper's.
RELEASED = {
    SD1: {"strength": 2, "gamma": 0.7, "rho": 50, "unguided steps": 5, "guidance": 7},
    SD2: {"strength": 4, "gamma": 0.7, "rho": 30, "unguided steps": 5, "guidance": 7},
}
CHOSEN_AT = {SD1: SD1_NUMEL, SD2: SD2_NUMEL}  # elements of the latents that rho was chosen for


@mitigation(
    "init_noise",
    knob="repetitions of the step out of the basin",
    source="Han et al., NeurIPS 2025",
    largest=8,
    sweep=(1, 2, 3, 4, 6),
    cost=lambda repetitions, steps: EVALS * round(repetitions),
    reads="latents",
    released=RELEASED,
    revision=2,
    needs=(NOISE,),
)
def other_basin(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Steps out of the attraction basin, and leaves the first five steps without guidance.

    Han et al., batch-wise: `leave_basin` so many times. In the first five steps, however many there are, the
    unconditional prediction is followed.
    """
    t, released = first_timestep(pipe, options.num_inference_steps), RELEASED[family_of(images.negative.shape[-1])]
    latents = leave_basin(pipe, images.latents, t, (images.negatives(), images.embeds()), round(strength))
    guidance = DelayedGuidance(options.guidance_scale, int(released["unguided steps"]))
    evals = [EVALS * round(strength)] * len(images)
    return always_acting(pipe, options, images, latents=latents, guidance=guidance, evals=evals)


@torch.no_grad()
def leave_basin(
    pipe: "DenoisingPipeline", latents: torch.Tensor, t: float, embeds: Embeds, repetitions: int
) -> torch.Tensor:
    """x <- x - gamma (diff(x + rho u) - diff(x)), so many times, with u the unit diff(x) of each image.

    rho was chosen for latents of one size and is a length: it grows with the root of their number of elements, as the
    norm of noise does.

    Args:
        latents: starting noise, (images, channels, height, width).
        embeds: of the empty prompt and of the prompt, each (images, tokens, dim).

    Returns:
        Latents of the same shape. A repetition costs four evaluations per image.
    """
    family = family_of(embeds[1].shape[-1])
    gamma, rho = RELEASED[family]["gamma"], RELEASED[family]["rho"] * size_scale(latents, CHOSEN_AT[family])
    for _ in range(repetitions):
        diff = output_diff(pipe, latents, t, embeds)
        latents = latents - gamma * (output_diff(pipe, latents + rho * unit(diff), t, embeds) - diff)
    return latents
