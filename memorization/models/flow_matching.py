"""What the families of flow matching share: their timesteps, what D is of, several text encoders, joint attention.

x_t = (1 - s) x_0 + s eps, and the transformer gives the velocity v = eps - x_0. Scores are of v (`NoisePrediction`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from local_sd_pipeline import DenoisingPipeline
from memorization.models.joint_attention import JointAttentionStore, joint_layers
from memorization.models.joint_tiles import JointTiles
from memorization.models.pooled import split_pooled, with_pooled
from memorization.needs import CROSS_ATTENTION, NOISE, ONE_ENCODER, TOKENS

LACKING = {
    NOISE: "which predicts velocities, not noise",
    CROSS_ATTENTION: "whose attention is over image and text together",
    TOKENS: "whose text is not one sequence of CLIP's tokens",
    ONE_ENCODER: "which has several text encoders",
}


@dataclass(frozen=True)
class TextSequence:
    """The tokens of one text encoder among the rows that joint attention reads.

    Attributes:
        name: of its end token in files of maps.
        begin: row of its first token.
        length: rows, padding included.
    """

    name: str
    tokenizer: Any
    begin: int
    length: int

    def end_row(self, prompt: str) -> int:
        """The row of the first end token."""
        ids = self.tokenizer(prompt, truncation=True, max_length=self.length).input_ids
        return self.begin + ids.index(self.tokenizer.eos_token_id)


class FlowMatchingPipeline(DenoisingPipeline):
    """A transformer of joint attention: mixed into a pipeline class of diffusers, as `DenoisingPipeline` is.

    Attributes:
        text_length: rows of the text, behind which are the pooled features.
        patch_length: side of the latent's square that is one position.
    """

    denoiser_name = "transformer"
    lacks = LACKING
    text_length: int
    patch_length: int

    @property
    def sequences(self) -> Sequence[TextSequence]:
        """The text encoders whose tokens the attention reads, in order."""
        raise NotImplementedError

    def packed_features(self, tokens: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        return with_pooled(tokens, pooled)

    def split_features(self, embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the tokens and pooled ones."""
        return split_pooled(embeds, self.transformer.config.pooled_projection_dim)

    def noise_scales(self, t: float) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(1.0), torch.tensor(0.0)

    def sample_input(self, sample: torch.Tensor, t: float) -> torch.Tensor:
        return sample

    def timestep_input(self, t: float, sample: torch.Tensor) -> torch.Tensor:
        return torch.full((len(sample),), t, dtype=torch.float32, device=sample.device)

    def shift_of(self, latents: torch.Tensor | None) -> float:
        """How far the schedule is shifted to noise, which grows with the number of image positions."""
        config = self.scheduler.config
        side = self.native_length // self.vae_scale_factor
        height, width = (side, side) if latents is None else latents.shape[-2:]
        length = (height // self.patch_length) * (width // self.patch_length)
        least, most = config.base_image_seq_len, config.max_image_seq_len
        slope = (config.max_shift - config.base_shift) / (most - least)
        return length * slope + (config.base_shift - slope * least)

    def sigmas(self, num_inference_steps: int) -> np.ndarray | None:
        """The schedule before it is shifted; None where the scheduler has its own."""
        return None

    def set_timesteps(self, num_inference_steps: int, latents: torch.Tensor | None = None) -> list[float]:
        shift = self.shift_of(latents) if self.scheduler.config.use_dynamic_shifting else None
        self.scheduler.set_timesteps(num_inference_steps, sigmas=self.sigmas(num_inference_steps), mu=shift)
        return self.scheduler.timesteps.tolist()

    @property
    def size_multiple(self) -> int:
        return self.vae_scale_factor * self.patch_length

    @property
    def mask_layers(self) -> list[str]:
        """All of them: which are the ones to look at, nobody knows."""
        return self.map_layers

    @property
    def map_layers(self) -> list[str]:
        return joint_layers(self.transformer)

    def attention_store(self, layers: Sequence[str], tokens: torch.Tensor | None, padding: bool) -> JointAttentionStore:
        assert tokens is not None
        begins, names = [s.begin for s in self.sequences], [s.name for s in self.sequences]
        return JointAttentionStore(layers, tokens, begins, names, self.text_length, padding)

    def token_attention(self, prompt: str) -> JointTiles:
        """What attention tiles of a prompt are made with."""
        return JointTiles(self, prompt)

    def token_rows(self, embeds: torch.Tensor) -> torch.Tensor:
        return embeds[:, : self.text_length]

    def written_out(self, prompt: str) -> str:
        """As it is: there is no textual inversion for these families."""
        return prompt

    def end_rows(self, prompt: str) -> list[int]:
        return [sequence.end_row(prompt) for sequence in self.sequences]

    def truncated_text(self, prompt: str) -> str:
        """What even the encoder that reads furthest does not see of a prompt."""
        furthest = max(self.sequences, key=lambda sequence: sequence.length)
        tokenizer, kept = furthest.tokenizer, furthest.length - 1
        ids = tokenizer(prompt).input_ids
        return tokenizer.decode(ids[kept:-1]).strip() if len(ids) - 1 > kept else ""
