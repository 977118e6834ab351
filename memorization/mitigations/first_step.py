"""What methods on the starting noise share: the first step's text-conditional part, as the UNet gives it."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

Embeds = tuple[torch.Tensor, torch.Tensor]  # of the empty prompt and of the prompt, each (images, tokens, dim)


def output_diff(pipe: "DenoisingPipeline", latents: torch.Tensor, t: float, embeds: Embeds) -> torch.Tensor:
    """The UNet's output with the prompt less that without, (images, channels, height, width); two evaluations an image.

    For epsilon models its norm is D. For others the predicted noises differ by `NoisePrediction.noise_scale` times as
    much: the released hyper-parameters are those of the outputs.
    """
    uncond, text = pipe.predict_noise(latents, t, embeds).outputs
    return text - uncond


def norms(x: torch.Tensor) -> torch.Tensor:
    """Euclidean norm of each image of x, float32 (images,)."""
    return x.float().flatten(1).norm(dim=1)


def unit(x: torch.Tensor) -> torch.Tensor:
    """Each image of x over its norm."""
    return x / x.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
