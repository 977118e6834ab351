"""Mitigations that switch off neurons of the cross-attention's values."""

from typing import TYPE_CHECKING

import torch

from attn_utils import CrossAttentionEdit, cross_attention_layers
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline


@mitigation(
    "neuron_off",
    knob="share of value neurons that are off",
    source="Hintersdorf et al., NeurIPS 2024",
    largest=1,
    sweep=(0.01, 0.02, 0.05, 0.1, 0.2),
    reads="weights",
    compares=True,
)
def neurons_off(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Switches off the value neurons furthest out of distribution on this prompt.

    NeMo. The values depend on the text alone, so that activations need no UNet evaluation. An activation is the mean
    over tokens of a value's size; its z-score is taken over `options.ordinary_text`, and the share over all down and
    mid layers together.
    """
    scores = value_zscores(pipe, options, images)
    everything = torch.cat(list(scores.values()), 1)
    count = max(1, round(strength * everything.shape[1]))
    threshold = everything.topk(count, dim=1).values[:, -1:]
    values = {name: (z < threshold).float() for name, z in scores.items()}
    return always_acting(pipe, options, images, edits=[CrossAttentionEdit(layers=tuple(scores), values=values)])


def value_zscores(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch
) -> dict[str, torch.Tensor]:
    """How far each value neuron of the down and mid layers is out of distribution: (images, channels) by layer."""
    modules, scores = dict(pipe.unet.named_modules()), {}
    for name in cross_attention_layers(pipe.unet):
        if name.startswith(("down_blocks", "mid_block")):
            to_v = modules[name.removesuffix(".processor")].to_v
            ordinary, own = (to_v(text).float().abs().mean(1) for text in (options.ordinary_text, images.embeds()))
            scores[name] = (own - ordinary.mean(0)) / ordinary.std(0).clamp(min=1e-6)
    return scores
