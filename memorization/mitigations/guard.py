"""GUARD as it is released."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions
from memorization.mitigations.spikes import GUARD, RELEASED, SWEEP, guarded
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


@mitigation(
    "guard",
    knob="weight of the repulsion from the original",
    source=GUARD,
    largest=10,
    sweep=SWEEP,
    cost=lambda weight, steps: steps,
    reads="attention",
    released={SD1: RELEASED, SD2: RELEASED},
    needs=(CROSS_ATTENTION,),
)
def guard(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float) -> Mitigated:
    """Attenuates tokens with spiking attention, repels from the original, and projects where both are parallel.

    The paper leaves the projection out; the released call has it on, since it leaves the argument at its default.
    Weights are the paper's; the commands of the release's README have others (repulsion 0.1, factor 0.5).
    """
    return guarded(pipe, options, images, strength, project=True)
