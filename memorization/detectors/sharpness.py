"""Sharpness: how the score difference bends along itself at the first step."""

import torch

from memorization.detectors.base import detector
from memorization.gradients import in_chunks, open_attention
from memorization.needs import NOISE
from memorization.trace import Trace


@detector(
    "sharpness", keys={"sharpness": "sharpness"}, source="Jeon et al., ICML 2025", steps=1, cost=(2, 2), needs=(NOISE,)
)
def sharpness(trace: Trace) -> dict[str, torch.Tensor]:
    """Norm of (H_text - H_uncond) s_diff at the first step, by one Jacobian-vector product.

    Jeon et al. (ICML 2025): H is the Jacobian of the score s = -eps / sqrt(1 - alphas_cumprod), s_diff = s_text -
    s_uncond. Their released code takes this norm, the paper its square. For v-prediction their code has another
    constant, which at one timestep is the same for all images: it gives this over 1 - alphas_cumprod.

    Costs two evaluations with tangents per image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    scale = -1 / (1 - pipe.scheduler.alphas_cumprod[step.timestep]).sqrt()

    def product(some: slice) -> torch.Tensor:
        embeds = tuple(e[some] for e in trace.embeds)

        def score_diff(latents: torch.Tensor) -> torch.Tensor:
            return scale * pipe.predict_noise(latents, step.timestep, embeds).diff()

        return torch.func.jvp(score_diff, (step.latents[some],), (scale * step.noise_diff[some],))[1].detach()

    with open_attention(pipe.denoiser):
        products = in_chunks(pipe, step.latents, 2, product)
    pipe.num_unet_gradients += 2 * len(step.latents)
    return {"sharpness": products.float().flatten(1).norm(dim=1)}
