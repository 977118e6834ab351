"""GUARD's attenuation alone."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.spikes import GUARD, attenuation
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

THRESHOLD = 0.01  # z-score from which a token spikes
RELEASED = {"strength": 0.7, "threshold": THRESHOLD, "factor": 0.3}


@mitigation(
    "attention_attenuate",
    knob="what is taken off a spiking token's logits: they are multiplied by 1 - strength",
    source=GUARD,
    largest=1,
    sweep=(0.1, 0.3, 0.5, 0.7, 0.9),
    reads="attention",
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
    needs=(CROSS_ATTENTION,),
)
def attenuated(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float) -> Mitigated:
    """Attenuates tokens with spiking attention in down and mid blocks.

    The first part of GUARD under ordinary guidance. The threshold is the paper's; the command of the release's README
    has 1.0.
    """
    edit = attenuation(pipe, THRESHOLD, 1 - strength, num_branches=2)
    return always_acting(pipe, options, images, edits=[edit])
