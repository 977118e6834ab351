"""Latents: starting noise, out of pictures, and to pixels, never to a black picture for want of range: what float16
cannot hold is done in float32."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image

Generators = list[torch.Generator] | torch.Generator


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
        shift = getattr(vae.config, "shift_factor", None)
        unshifted = latents / vae.config.scaling_factor
        return unshifted if shift is None else unshifted + shift
    mean, std = (torch.tensor(v, dtype=latents.dtype, device=latents.device)[:, None, None] for v in (mean, std))
    return latents * std / vae.config.scaling_factor + mean


def scaled(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """The VAE's latents in the scale that the denoiser is trained in."""
    shift = getattr(vae.config, "shift_factor", None)
    return (latents if shift is None else latents - shift) * vae.config.scaling_factor


class LatentImages:
    """What a pipeline does with latents beside denoising them: mixed into `DenoisingPipeline`.

    Attributes:
        denoiser_name: the part that predicts, `unet` or `transformer`.
    """

    denoiser_name = "unet"
    _execution_device: Any
    vae: Any
    image_processor: Any
    vae_scale_factor: int
    prepare_latents: Callable[..., torch.Tensor]

    @property
    def denoiser(self) -> Any:
        """The UNet or the transformer."""
        return getattr(self, self.denoiser_name)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """Images of final latents, uint8 array (images, height, width, 3).

        One at a time: the decoder needs more memory per image than a UNet does. Where it overflows in half precision,
        that image is decoded again in float32.

        Raises:
            NotFiniteError: if an image holds NaN or infinity all the same, which would be saved as black.
        """
        return np.concatenate([self.decode_one(x, k) for k, x in enumerate(latents.split(1))])

    def decode_one(self, latents: torch.Tensor, position: int = 0) -> np.ndarray:
        image = decode_finite(self.vae, latents, position)
        image = self.image_processor.postprocess(image, output_type="np")
        return (image * 255).round().astype("uint8")

    @property
    def native_length(self) -> int:
        """Height and width in pixels that the model is made for.

        Raises:
            ValueError: if its denoiser says none, or is not made for squares.
        """
        size = self.denoiser.config.sample_size
        sides = set(size) if isinstance(size, list | tuple) else {size}
        if len(sides) != 1 or None in sides:
            raise ValueError(f"the {self.denoiser_name}'s sample_size is {size}, which is no square; give image_length")
        return sides.pop() * self.vae_scale_factor

    @torch.no_grad()
    def encode_images(self, images: Sequence[np.ndarray]) -> torch.Tensor:
        """Latents of images, uint8 arrays (height, width, 3) of any size, at the model's own size."""
        size = self.native_length
        resized = [self.image_processor.preprocess(Image.fromarray(i), height=size, width=size) for i in images]
        pixels = torch.cat(resized).to(self._execution_device, self.vae.dtype)
        return scaled(self.vae, self.vae.encode(pixels).latent_dist.mean)

    @property
    def size_multiple(self) -> int:
        """What sides in pixels have to be multiples of: what the UNet can halve."""
        return self.vae_scale_factor * 2 ** (len(self.denoiser.config.block_out_channels) - 1)

    def initial_latents(
        self, seeds: Sequence[int], image_length: int | None = None, joint_seed: int | None = None
    ) -> torch.Tensor:
        """Starting noise, one CPU generator per image: image k depends on `seeds[k]` alone.

        Args:
            seeds: one integer per image.
            image_length: height and width in pixels; None takes the model's own.
            joint_seed: draw all images in one call from a generator with this seed instead, as the
                released code does; image k then depends on the number of images.

        Raises:
            ValueError: if `image_length` is not a multiple of `size_multiple`.
        """
        size = image_length or self.native_length
        if size % self.size_multiple:
            raise ValueError(f"image_length {size} is not a multiple of {self.size_multiple}")
        generators: Generators = [torch.Generator().manual_seed(s) for s in seeds]
        if joint_seed is not None:
            generators = torch.Generator().manual_seed(joint_seed)
        return self.draw_latents(len(seeds), size, generators)

    def draw_latents(self, count: int, size: int, generators: Generators) -> torch.Tensor:
        """Noise of images of a size in pixels, (count, channels, height, width)."""
        channels, dtype = self.denoiser.config.in_channels, self.denoiser.dtype
        return self.prepare_latents(count, channels, size, size, dtype, self._execution_device, generators)
