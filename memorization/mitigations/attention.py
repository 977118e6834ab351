"""."""

import math

import torch

from attn_utils import CrossAttentionEdit, cross_attention_layers
from memorization.mitigations.base import generate


class RepellingGuidance:
    """Towards an edited prediction and away from the original one (GUARD; Zhao et al., ICML 2026).

    eps = eps_u + s (eps+ - eps_u) - r d (eps- - eps_u) with branches uncond, edited (+), original (-), and
    d falling from 1 at the first step to 0 after the last along a cosine.
    """

    def __init__(self, guidance_scale, repulsion, num_inference_steps):
        self.guidance_scale, self.repulsion, self.steps, self.index = guidance_scale, repulsion, num_inference_steps, -1

    def __call__(self, prediction):
        self.index += 1
        uncond, edited, original = prediction.outputs
        decay = (1 + math.cos(math.pi * self.index / self.steps)) / 2
        return uncond + self.guidance_scale * (edited - uncond) - self.repulsion * decay * (original - uncond)


GUARD_SPIKES = (0.1, 0.3)  # z-score from which a token spikes, factor of its logit


OTHER_PADDING = "!"


def padding_of(pipe, images):
    """Which tokens are behind the prompt's end token, bool (images, tokens)."""
    place = torch.arange(images.embeds().shape[1], device=images.latents.device)
    return place[None] > torch.tensor(images.end_tokens, device=place.device)[:, None]


def rescaled_attention(pipe, options, images, strength):
    """Ren et al.: the begin token's logit is multiplied by 1 + strength, padding gets no attention."""
    edit = CrossAttentionEdit(scale_begin=1 + strength, hidden=padding_of(pipe, images))
    return generate(pipe, options, images, edit=edit)


def other_padding(pipe, options, images, strength):
    """Kim and No: padded with "!" instead of the end token, and a share `strength` of the padding, the last, hidden."""
    padding = padding_of(pipe, images)
    shown = ((1 - strength) * padding.sum(1)).round()
    hidden = padding & (padding.cumsum(1) > shown[:, None])
    text = torch.cat([encode_padded(pipe, prompt, OTHER_PADDING) for prompt in images.prompts])
    return generate(pipe, options, images, text=text, edit=CrossAttentionEdit(hidden=hidden))


@torch.no_grad()
def encode_padded(pipe, prompt, padding):
    """Text features of a prompt with another word behind its end token, (1, tokens, dim)."""
    length = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(prompt, truncation=True, max_length=length).input_ids
    (word,) = pipe.tokenizer(padding).input_ids[1:-1][:1]
    padded = torch.tensor([ids + [word] * (length - len(ids))], device=pipe.device)
    return pipe.text_encoder(padded)[0].to(pipe.unet.dtype)


def attenuated(pipe, options, images, strength):
    """GUARD: spiking tokens attenuated in the down and mid blocks, and repelled from the original prediction."""
    layers = tuple(n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block")))
    edit = CrossAttentionEdit(num_branches=3, layers=layers, spikes=GUARD_SPIKES)
    guidance = RepellingGuidance(options.guidance_scale, strength, options.num_inference_steps)
    return generate(pipe, options, images, guidance=guidance, edit=edit, original=True)
