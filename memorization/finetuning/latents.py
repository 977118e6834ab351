"""Latents of pictures that come again and again: what the VAE says of one is kept, and drawn from anew each time."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

MOST_KEPT = 2**14  # pictures; 2 GiB of memory at the size of Stable Diffusion 1


class EncodedPictures:
    """Pictures as the distributions that a VAE gives of them, each encoded once, up to a number of them.

    A picture is encoded by itself: it has the same latents in whatever batch it comes, in a training that goes on as in
    one that was not cut off. They are kept in the CPU's memory.
    """

    def __init__(self, vae: Any, most: int = MOST_KEPT):
        """
        Args:
            vae: of diffusers, which is not trained.
            most: pictures that are kept; further ones are encoded each time.
        """
        self.vae, self.most = vae, most
        self.moments: dict[int, torch.Tensor] = {}

    def sample(self, batch: Mapping[str, torch.Tensor], generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Latents of a batch as the UNet takes them, each drawn by its own generator.

        Args:
            batch: `pixels` (samples, 3, height, width) in [-1, 1], and `example`, by which a picture is known again.

        Returns:
            float (samples, channels, height, width).
        """
        moments = [self.of(int(k), pixels) for k, pixels in zip(batch["example"], batch["pixels"], strict=True)]
        distribution = DiagonalGaussianDistribution(torch.cat(moments).to(batch["pixels"].device))
        return distribution.sample(generators) * self.vae.config.scaling_factor

    @torch.no_grad()
    def of(self, example: int, pixels: torch.Tensor) -> torch.Tensor:
        """Means and log variances of a picture (3, height, width), (1, 2 channels, height, width)."""
        if example in self.moments:
            return self.moments[example]
        moments = self.vae.encode(pixels[None]).latent_dist.parameters.cpu()
        if len(self.moments) < self.most:
            self.moments[example] = moments
        return moments
