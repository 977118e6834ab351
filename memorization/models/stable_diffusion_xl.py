"""Stable Diffusion XL (Podell et al., 2023): two text encoders, pooled features and sizes as added conditions."""

from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline

from local_sd_pipeline import DenoisingPipeline
from memorization.decoding import in_float32
from memorization.models.pooled import split_pooled, with_pooled
from memorization.needs import ONE_ENCODER


class LocalStableDiffusionXLPipeline(DenoisingPipeline, StableDiffusionXLPipeline):
    """SDXL base. The rows behind the tokens hold the pooled features of the second encoder, filled up with zeros.

    Whatever is done to all features of a prompt (optimised, mixed, made noisy) is done to the pooled ones too. Sizes
    are those that diffusers tells the UNet by default: the image's own, uncropped.
    """

    family_name = "SDXL"
    default_guidance_scale = 5.0
    lacks = {ONE_ENCODER: "which has a second text encoder"}  # noqa: RUF012  # never changed

    def encode_one(self, prompt: str) -> torch.Tensor:
        """
        Args:
            prompt: of the empty one guidance starts from zeros, where the model's config says so.
        """
        tokens, _, pooled, _ = self.encode_prompt(
            prompt, device=self._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if not prompt and self.config.force_zeros_for_empty_prompt:
            tokens, pooled = torch.zeros_like(tokens), torch.zeros_like(pooled)
        return with_pooled(tokens, pooled)

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        tokens, pooled = split_pooled(embeds, self.text_encoder_2.config.projection_dim)
        height, width = (side * self.vae_scale_factor for side in latents.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=embeds.dtype, device=embeds.device)
        added = {
            "text_embeds": pooled,
            "time_ids": sizes.expand(len(embeds), -1),
        }
        return {"encoder_hidden_states": tokens, "added_cond_kwargs": added}

    def decode_one(self, latents: torch.Tensor, position: int = 0) -> np.ndarray:
        """As of every family; in float32 where the VAE is known to overflow in half precision."""
        if self.vae.dtype != torch.float16 or not self.vae.config.force_upcast:
            return super().decode_one(latents, position)
        with in_float32(self.vae):
            return super().decode_one(latents.float(), position)
