"""Guidance away from the prompt until a fixed timestep."""

from typing import TYPE_CHECKING

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import (
    DelayedGuidance,
    ImageBatch,
    Mitigated,
    MitigationOptions,
    always_acting,
    steps_above,
)
from memorization.needs import GUIDANCE
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

TRANSITION = 0.65  # of the noise schedule: timestep 650 of 1000
RELEASED = {"strength": 2, "timestep": 650}


@mitigation(
    "cfg_opposite",
    knob="size of the negative guidance scale",
    source="Jain et al., CVPR 2025",
    largest=10,
    sweep=(0.5, 1, 2, 3, 4),
    reads="guidance",
    released={SD1: RELEASED, SD2: RELEASED},
    needs=(GUIDANCE,),
)
def opposite(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float) -> Mitigated:
    """Negative guidance until timestep 650, ordinary guidance after.

    Opposite guidance with the static transition point. Left out, as in `cfg_delay`: the 200 steps that the released
    script plans anew where a step falls exactly on the transition; its sampler is DPM-Solver++.
    """
    waiting = steps_above(pipe, options, images, TRANSITION * pipe.scheduler.config.num_train_timesteps)
    guidance = DelayedGuidance(options.guidance_scale, waiting, first_scale=-strength)
    return always_acting(pipe, options, images, guidance=guidance)
