"""Flux.1 (Black Forest Labs, 2024): T5's tokens and CLIP's pooled features, flow matching, distilled guidance.

A generation follows the prompt's prediction, which has the guidance scale in it: the empty prompt is a second
evaluation, made for D alone, at the same scale. schnell is told no scale.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline

from memorization.decoding import Generators
from memorization.models.flow_matching import LACKING, FlowMatchingPipeline, TextSequence
from memorization.needs import GUIDANCE

T5_LENGTH = 512


class LocalFluxPipeline(FlowMatchingPipeline, FluxPipeline):
    """Latents are unpacked everywhere but in the transformer, which sees squares of 2 x 2 as one position.

    The rows behind T5's tokens hold CLIP's pooled features, filled up with zeros.
    """

    family_name = "Flux.1"
    default_guidance_scale = embedded_guidance = 3.5
    lacks = LACKING | {GUIDANCE: "whose guidance is distilled: there is no unconditional branch"}
    joins_branches = False  # so that the prompt's prediction is that of a call of its own
    is_distilled = True
    has_begin_token = False
    patch_length = 2
    text_length = T5_LENGTH

    def encode_one(self, prompt: str) -> torch.Tensor:
        tokens, pooled, _ = self.encode_prompt(prompt, None, self._execution_device, max_sequence_length=T5_LENGTH)
        return self.packed_features(tokens, pooled)

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        tokens, pooled = self.split_features(embeds)
        device, dtype, (height, width) = latents.device, latents.dtype, latents.shape[-2:]
        guidance = None
        if self.transformer.config.guidance_embeds:
            guidance = torch.full((len(latents),), self.embedded_guidance, dtype=torch.float32, device=device)
        return {
            "encoder_hidden_states": tokens,
            "pooled_projections": pooled,
            "guidance": guidance,
            "txt_ids": torch.zeros(T5_LENGTH, 3, dtype=dtype, device=device),
            "img_ids": self._prepare_latent_image_ids(len(latents), height // 2, width // 2, device, dtype),
        }

    def sample_input(self, sample: torch.Tensor, t: float) -> torch.Tensor:
        return self._pack_latents(sample.contiguous(), *sample.shape)

    def as_latents(self, output: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return self.unpacked(output, *sample.shape[-2:])

    def unpacked(self, packed: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Latents (samples, channels, height, width) of packed ones."""
        factor = self.vae_scale_factor
        return self._unpack_latents(packed, height * factor, width * factor, factor)

    def timestep_input(self, t: float, sample: torch.Tensor) -> torch.Tensor:
        return super().timestep_input(t, sample).to(sample.dtype) / 1000

    def sigmas(self, num_inference_steps: int) -> np.ndarray:
        return np.linspace(1.0, 1 / num_inference_steps, num_inference_steps)

    def draw_latents(self, count: int, size: int, generators: Generators) -> torch.Tensor:
        channels, dtype = self.transformer.config.in_channels // 4, self.transformer.dtype
        packed, _ = self.prepare_latents(count, channels, size, size, dtype, self._execution_device, generators)
        side = size // self.vae_scale_factor
        return self.unpacked(packed, side, side)

    @property
    def native_length(self) -> int:
        return self.default_sample_size * self.vae_scale_factor

    @property
    def sequences(self) -> Sequence[TextSequence]:
        return (TextSequence("t5_end", self.tokenizer_2, 0, T5_LENGTH),)
