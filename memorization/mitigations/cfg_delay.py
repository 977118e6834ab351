"""Guidance from a fixed timestep on."""

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

RELEASED = {"strength": 0.5, "timestep": 500}


@mitigation(
    "cfg_delay",
    knob="share of the noise schedule without guidance: 0.5 is down to timestep 500 of 1000",
    source="Jain et al., CVPR 2025",
    largest=1,
    sweep=(0.2, 0.3, 0.4, 0.5, 0.6),
    reads="guidance",
    released={SD1: RELEASED, SD2: RELEASED},
    revision=2,
    needs=(GUIDANCE,),
)
def delayed(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float) -> Mitigated:
    """No guidance until a fixed timestep.

    The static transition point: guidance scale 0, the unconditional prediction, at timesteps above it, the ordinary
    scale from it on. 500 is released for LAION, 600 and 700 (strengths 0.4 and 0.3) for Imagenette. Left out: the
    released script plans 200 steps anew where a step falls exactly on the transition. Its sampler is DPM-Solver++.
    """
    timestep = round((1 - strength) * pipe.scheduler.config.num_train_timesteps, 6)
    waiting = steps_above(pipe, options, images, timestep)
    return always_acting(pipe, options, images, guidance=DelayedGuidance(options.guidance_scale, waiting))
