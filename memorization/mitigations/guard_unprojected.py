"""GUARD without the projection."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions
from memorization.mitigations.spikes import GUARD, RELEASED, SWEEP, guarded
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@mitigation(
    "guard_unprojected",
    knob="weight of the repulsion from the original",
    source=GUARD,
    largest=10,
    sweep=SWEEP,
    cost=lambda weight, steps: steps,
    reads="attention",
    released={SD1: RELEASED, SD2: RELEASED},
    needs=(CROSS_ATTENTION,),
)
def guard_unprojected(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Attenuates tokens with spiking attention and repels from the original prediction.

    `guard` with the projection off: what the released code computes with `orthogonalize_neighbors=False`.
    """
    return guarded(pipe, options, images, strength, project=False)
