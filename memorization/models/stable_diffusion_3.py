"""Stable Diffusion 3 and 3.5 (Esser et al., 2024): two CLIP encoders and T5 in one sequence, flow matching.

T5 may be absent: then its rows are zeros, as in diffusers.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusion3Pipeline

from memorization.models.flow_matching import FlowMatchingPipeline, TextSequence

T5_LENGTH = 256


class LocalStableDiffusion3Pipeline(FlowMatchingPipeline, StableDiffusion3Pipeline):
    """The rows behind the tokens hold the pooled features of both CLIP encoders, filled up with zeros."""

    family_name = "Stable Diffusion 3"
    default_guidance_scale = 7.0

    def encode_one(self, prompt: str) -> torch.Tensor:
        tokens, _, pooled, _ = self.encode_prompt(
            prompt, None, None, self._execution_device, do_classifier_free_guidance=False, max_sequence_length=T5_LENGTH
        )
        return self.packed_features(tokens, pooled)

    def conditions(self, embeds: torch.Tensor, latents: torch.Tensor) -> dict[str, Any]:
        tokens, pooled = self.split_features(embeds)
        return {"encoder_hidden_states": tokens, "pooled_projections": pooled}

    @property
    def text_length(self) -> int:  # type: ignore[override]  # nobody sets it
        return self.tokenizer_max_length + T5_LENGTH

    @property
    def sequences(self) -> Sequence[TextSequence]:
        """CLIP's two encoders share their rows, and read the same tokens."""
        clip = TextSequence("clip_end", self.tokenizer, 0, self.tokenizer_max_length)
        if self.text_encoder_3 is None:
            return (clip,)
        return clip, TextSequence("t5_end", self.tokenizer_3, clip.length, T5_LENGTH)

    @property
    def patch_length(self) -> int:  # type: ignore[override]
        return self.transformer.config.patch_size

    def initial_latents(
        self, seeds: Sequence[int], image_length: int | None = None, joint_seed: int | None = None
    ) -> torch.Tensor:
        """As of every family.

        Raises:
            ValueError: also if the transformer has no place for images of this size.
        """
        largest = self.transformer.config.pos_embed_max_size * self.size_multiple
        if image_length is not None and image_length > largest:
            raise ValueError(f"image_length {image_length} is above {largest}, up to which this transformer has places")
        return super().initial_latents(seeds, image_length, joint_seed)
