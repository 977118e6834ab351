"""Guidance from the first local minimum of D_t on, and after a share of the steps at the latest."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.local_minimum import MinimumGuidance
from memorization.needs import GUIDANCE

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

UNCONDITIONAL = 0.0  # guidance scale at which the unconditional prediction is followed


@mitigation(
    "cfg_delay_capped",
    knob="largest share of steps without guidance",
    source="ours",
    largest=1,
    sweep=(0.2, 0.4, 0.6, 0.8, 1),
    reads="guidance",
    needs=(GUIDANCE,),
)
def delayed_up_to(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """No guidance until the first local minimum of D_t, or until a share of the steps is over.

    The minimum of `cfg_delay_dynamic` (Jain et al., CVPR 2025) with two changes of ours: the unconditional prediction
    before it, as in `cfg_delay`, in place of the conditional one, and a cap.
    """
    longest = round(strength * options.num_inference_steps)
    guidance = MinimumGuidance(options.guidance_scale, UNCONDITIONAL, longest)
    return always_acting(pipe, options, images, guidance=guidance)
