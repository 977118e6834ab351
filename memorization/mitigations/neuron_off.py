"""The share of value neurons that are furthest out of distribution on a prompt, switched off."""

from typing import TYPE_CHECKING

import torch

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.value_neurons import deviations, values_scaled
from memorization.needs import CROSS_ATTENTION

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@mitigation(
    "neuron_off",
    knob="share of value neurons that are off",
    source="ours",
    largest=1,
    sweep=(0.01, 0.02, 0.05, 0.1, 0.2),
    reads="weights",
    compares=True,
    revision=2,
    needs=(CROSS_ATTENTION,),
)
def neurons_off(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Switches off the share of value neurons that deviate most from ordinary captions on this prompt.

    Without the gate and the refinement of `nemo`, at no evaluation: the share is over all layers together. They are off
    in both branches.
    """
    assert options.ordinary_text is not None
    scores = deviations(pipe, options.ordinary_text, images.embeds())
    scores = {name: z.nan_to_num(0) for name, z in scores.items()}  # of neurons that are always the same
    everything = torch.cat(list(scores.values()), 1)
    count = max(1, round(strength * everything.shape[1]))
    threshold = everything.topk(count, dim=1).values[:, -1:]
    values = {name: (z < threshold).float() for name, z in scores.items()}
    with values_scaled(pipe.unet, values):
        return always_acting(pipe, options, images)
