"""Latents to pixels, and never to a black picture for want of range: what float16 cannot hold is done in float32."""

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
    dtype = vae.dtype
    torch.nn.Module.to(vae, torch.float32)  # diffusers' own warns of a cast that is taken back
    try:
        image = decode_latents(vae, latents.float())
    finally:
        torch.nn.Module.to(vae, dtype)
    if not image.isfinite().all():
        raise NotFiniteError(position, "the VAE gives NaN or infinity for it, in float32 too")
    return image


def decode_latents(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
