"""Curvature difference: how the norms of the two predictions change with the starting noise."""

import torch

from memorization.detectors.base import detector
from memorization.gradients import in_chunks
from memorization.trace import Trace


@detector(
    "curvature_diff",
    keys={"curvature_diff": "curvature_diff"},
    source="early-detection study, 2026",
    steps=1,
    cost=(2, 2),
)
def curvature_diff(trace: Trace) -> dict[str, torch.Tensor]:
    """Norm of the gradient of (norm(eps_text)^2 - norm(eps_uncond)^2) / 2 at the first step.

    Of an anonymous early-detection study of 2026, whose released code takes the square of this norm ("Metric 2"): the
    ranking of images is the same. Costs two evaluations with gradients per image.
    """
    return {"curvature_diff": curvature_gradient(trace).float().flatten(1).norm(dim=1)}


def curvature_gradient(trace: Trace) -> torch.Tensor:
    """That gradient over the latents, (images, channels, height, width); one backward pass gives the difference."""
    pipe, step = trace.pipe, trace.steps[0]

    def gradient(some: slice) -> torch.Tensor:
        with torch.enable_grad():
            latents = step.latents[some].detach().requires_grad_()
            prediction = pipe.predict_noise(latents, step.timestep, tuple(e[some] for e in trace.embeds))
            text, uncond = (prediction.noise(b).square().sum() / 2 for b in (1, 0))
            return torch.autograd.grad(text - uncond, latents)[0]

    pipe.num_unet_gradients += 2 * len(step.latents)
    return in_chunks(pipe, step.latents, 2, gradient)
