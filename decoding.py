"""Latents to pixels, and never to a black picture for want of range: what float16 cannot hold is done in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class NotFiniteError(ValueError):
    """An image that holds NaN or infinity; `position` is its place in the batch."""

    def __init__(self, position: int, what: str):
        super().__init__(f"image {position} of the batch: {what}")
        self.position, self.what = position, what


def decode_finite(vae: Any, latents: torch.Tensor, position: int = 0) -> torch.Tensor:
    """Pixels of final latents in [-1, 1] or nearly, (images, 3, height, width).

    A decoder that overflows in half precision is run again in float32; its weights come back as they were.

    Args:
        vae: AutoencoderKL.
        latents: (images, channels, height, width).
        position: of the first image in its batch, for the message.

    Raises:
        NotFiniteError: if the latents or the pixels hold NaN or infinity all the same.
    """
    if not latents.isfinite().all():
        raise NotFiniteError(position, "its latents are NaN or infinite")
    image = decode_latents(vae, latents)
    if image.isfinite().all():
        return image
    with in_float32(vae):
        image = decode_latents(vae, latents.float())
    if not image.isfinite().all():
        raise NotFiniteError(position, "the VAE gives NaN or infinity for it, in float32 too")
    return image


@contextmanager
def in_float32(vae: Any) -> Iterator[None]:
    """The VAE in float32 for the block; its weights come back as they were."""
    dtype = vae.dtype
    torch.nn.Module.to(vae, torch.float32)  # diffusers' own warns of a cast that is taken back
    try:
        yield
    finally:
        torch.nn.Module.to(vae, dtype)


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(unscaled(vae, latents), return_dict=False)[0]


def unscaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents as the VAE has them, from the scale that the denoiser is trained in; some are also shifted."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return latents / vae.config.scaling_factor
    mean, std = (torch.tensor(v, dtype=latents.dtype, device=latents.device)[:, None, None] for v in (mean, std))
    return latents * std / vae.config.scaling_factor + mean
