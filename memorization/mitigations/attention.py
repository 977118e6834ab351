"""Mitigations that edit the cross-attention: begin token, padding, spiking tokens."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attn_utils import CrossAttentionEdit, cross_attention_layers
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline, NoisePrediction

GUARD_SPIKES = (0.1, 0.3)  # z-score from which a token spikes, factor of its logit
OTHER_PADDING = "!"


def padding_of(images: ImageBatch) -> torch.Tensor:
    """Which tokens are behind the prompt's end token, bool (images, tokens)."""
    place = torch.arange(images.candidates[0].shape[1], device=images.latents.device)
    return place[None] > torch.tensor(images.end_tokens, device=place.device)[:, None]


@mitigation(
    "attention_rescale",
    knob="begin token's logit times 1 + strength",
    source="Ren et al., ECCV 2024",
    largest=1,
    sweep=(0.1, 0.2, 0.3, 0.5, 1),
    reads="attention",
)
def rescaled_attention(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """More attention to the begin token, none to padding."""
    edit = CrossAttentionEdit(scale_begin=1 + strength, hidden=padding_of(images))
    return always_acting(pipe, options, images, edit=edit)


@mitigation(
    "padding_fix",
    knob="share of the padding that is hidden",
    source="Kim and No, 2026",
    largest=1,
    sweep=(0.1, 0.3, 0.5, 0.8, 1),
    reads="words",
)
def other_padding(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Pads with "!" instead of the end token and hides part of the padding, the last."""
    padding = padding_of(images)
    shown = ((1 - strength) * padding.sum(1)).round()
    hidden = padding & (padding.cumsum(1) > shown[:, None])
    text = torch.cat([encode_padded(pipe, prompt, OTHER_PADDING) for prompt in images.prompts])
    return always_acting(pipe, options, images, text=text, edit=CrossAttentionEdit(hidden=hidden))


@torch.no_grad()
def encode_padded(pipe: "LocalStableDiffusionPipeline", prompt: str, padding: str) -> torch.Tensor:
    """Text features of a prompt with another word behind its end token, (1, tokens, dim)."""
    length, ids = pipe.tokenizer.model_max_length, pipe.token_ids(prompt)
    (word,) = pipe.tokenizer(padding).input_ids[1:-1][:1]
    padded = torch.tensor([ids + [word] * (length - len(ids))], device=pipe.device)
    return pipe.text_encoder(padded)[0].to(pipe.unet.dtype)


@mitigation(
    "attention_attenuate",
    knob="weight of the repulsion from the original",
    source="Zhao et al., ICML 2026",
    largest=10,
    sweep=(0.5, 1, 2, 4, 8),
    cost=lambda weight, steps: steps,
    reads="attention",
)
def attenuated(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Attenuates tokens with spiking attention in down and mid blocks, and repels from the original prediction."""
    layers = tuple(n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block")))
    edit = CrossAttentionEdit(num_branches=3, layers=layers, spikes=GUARD_SPIKES)
    guidance = RepellingGuidance(options.guidance_scale, strength, options.num_inference_steps)
    return always_acting(pipe, options, images, guidance=guidance, edit=edit, with_original=True)


@dataclass
class RepellingGuidance:
    """Towards an edited prediction and away from the original one (GUARD; Zhao et al., ICML 2026).

    eps = eps_u + s (eps+ - eps_u) - r d (eps- - eps_u) with branches uncond, edited (+), original (-), and
    d falling from 1 at the first step to 0 after the last along a cosine.
    """

    guidance_scale: float
    repulsion: float
    num_inference_steps: int
    index: int = -1  # of the latest step

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        self.index += 1
        uncond, edited, original = prediction.outputs
        decay = (1 + math.cos(math.pi * self.index / self.num_inference_steps)) / 2
        return uncond + self.guidance_scale * (edited - uncond) - self.repulsion * decay * (original - uncond)
