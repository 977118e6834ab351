"""Mitigations by guidance that starts late (Jain et al., CVPR 2025)."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import DelayedGuidance, ImageBatch, Mitigated, MitigationOptions, always_acting

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

JAIN = "Jain et al., CVPR 2025"
SWEEP = (0.1, 0.2, 0.3, 0.4, 0.6)


@mitigation("cfg_delay", knob="share of steps without guidance", source=JAIN, largest=1, sweep=SWEEP, reads="guidance")
def delayed(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """No guidance for a share of the steps."""
    return with_delay(pipe, options, images, strength, dynamic=False)


@mitigation(
    "cfg_delay_dynamic",
    knob="largest share of steps without guidance",
    source=JAIN,
    largest=1,
    sweep=SWEEP,
    reads="guidance",
)
def delayed_dynamically(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """No guidance until the first local minimum of D_t."""
    return with_delay(pipe, options, images, strength, dynamic=True)


def with_delay(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, share: float, dynamic: bool
) -> Mitigated:
    waiting = round(share * options.num_inference_steps)
    return always_acting(pipe, options, images, guidance=DelayedGuidance(options.guidance_scale, waiting, dynamic))
