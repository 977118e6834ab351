"""Gaussian noise on the text embedding."""

from collections.abc import Sequence

import torch
from diffusers.utils.torch_utils import randn_tensor

from memorization.finetuning.base import embedding_mitigation


@embedding_mitigation("embedding_noise", knob="scale of the noise", strength=0.1)
def embedding_noise(embeds: torch.Tensor, generators: Sequence[torch.Generator], strength: float) -> torch.Tensor:
    """Adds Gaussian noise to the text embedding."""
    noise = randn_tensor(embeds.shape, list(generators), embeds.device, embeds.dtype)
    return embeds + strength * noise
