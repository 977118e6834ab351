"""."""

import torch

from attn_utils import CrossAttentionEdit, cross_attention_layers
from memorization.mitigations.base import generate


def neurons_off(pipe, options, images, strength):
    """NeMo: a share `strength` of the value neurons, those furthest out of distribution on this prompt, give zero.

    The values depend on the text alone, so that activations need no UNet evaluation. An activation is the mean over
    tokens of a value's size; its z-score is taken over `options.ordinary_text`, and the share over all down and mid
    layers together.
    """
    modules = dict(pipe.unet.named_modules())
    layers = [n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block"))]
    scores = {}
    for name in layers:
        to_v = modules[name.removesuffix(".processor")].to_v
        ordinary, own = (to_v(text).float().abs().mean(1) for text in (options.ordinary_text, images.embeds()))
        scores[name] = (own - ordinary.mean(0)) / ordinary.std(0).clamp(min=1e-6)
    everything = torch.cat(list(scores.values()), 1)
    count = max(1, round(strength * everything.shape[1]))
    threshold = everything.topk(count, dim=1).values[:, -1:]
    values = {name: (z < threshold).float() for name, z in scores.items()}
    return generate(pipe, options, images, edit=CrossAttentionEdit(layers=tuple(layers), values=values))
