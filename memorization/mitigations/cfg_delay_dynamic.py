"""Guidance from the first local minimum of D_t on."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.local_minimum import MinimumGuidance
from memorization.needs import GUIDANCE
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

CONDITIONAL = 1.0  # guidance scale at which the conditional prediction is followed
RELEASED = {"strength": 1, "guidance scale before": CONDITIONAL}


@mitigation(
    "cfg_delay_dynamic",
    knob="none published: 1 is as released",
    source="Jain et al., CVPR 2025",
    largest=1,
    sweep=(1,),
    whole=True,
    reads="guidance",
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
    needs=(GUIDANCE,),
)
def delayed_dynamically(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Follows the conditional prediction until the first local minimum of D_t, ordinary guidance after.

    The dynamic transition point, for each image its own. An image whose D_t has no minimum is never guided. The
    released script's sampler is DPM-Solver++.
    """
    return always_acting(pipe, options, images, guidance=MinimumGuidance(options.guidance_scale, CONDITIONAL))
