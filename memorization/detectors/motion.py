"""Broken Memories: how far update and predicted x_0 leave the range of ordinary images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from memorization.detectors.base import detector
from memorization.needs import NOISE
from memorization.released import SD1
from memorization.trace import Calibration, Trace

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

NORMS = ("latent_norm", "update_norm", "x0_norm")
COMPARED = ("update_norm", "x0_norm")
SMALLEST_STD = 1e-5  # of the rewrite
RELEASED = {SD1: {"tau_mild": 3.0, "tau_strong": 14.0}}


def motion_norms(pipe: "DenoisingPipeline", step: "DenoiseStep") -> dict[str, torch.Tensor]:
    """Norms of the latents, of their update and of the predicted x_0, a dict to (images,); guided, as they move.

    Broken Memories (Huang et al., KDD 2026) compares them with those of ordinary prompts. x_0 is computed from the
    predicted noise, so that v-prediction models are right.
    """
    a = pipe.scheduler.alphas_cumprod[step.timestep]
    if a > 0:
        x0 = (step.latents - (1 - a).sqrt() * step.prediction.as_noise(step.noise_pred)) / a.sqrt()
    else:  # zero terminal SNR: x_t has no x_0 in it, and the model's own output says it, as -v or as x_0
        x0 = -step.noise_pred if pipe.scheduler.config.prediction_type == "v_prediction" else step.noise_pred
    moved = (step.latents, step.next_latents - step.latents, x0)
    return {name: x.float().flatten(1).norm(dim=1) for name, x in zip(NORMS, moved, strict=True)}


@detector(
    "broken_memories",
    keys={"broken_memories": "broken_memories"},
    source="ours, after Huang et al., KDD 2026",
    watch=motion_norms,
    kept=NORMS,
    released=RELEASED,
    needs=(NOISE,),
)
def broken_memories(trace: Trace) -> dict[str, torch.Tensor]:
    """Z-scores of update and predicted x_0 against ordinary prompts (--calibration their rows), where both are large.

    After Huang et al. (KDD 2026), who have released no code: one-sided, and guided runs are compared with guided ones.
    `broken_memories_absolute` is the other reading. Without a calibration the row keeps the norms alone, which other
    runs can be calibrated with.
    """
    norms = trace.watched_norms("broken_memories")
    if trace.calibration is None:
        return norms
    return norms | {"broken_memories": motion_zscores(norms, trace.calibration)}


@detector(
    "broken_memories_absolute",
    keys={"broken_memories_absolute": "broken_memories_absolute"},
    source="narbengusu/denoising_memorization, after Huang et al., KDD 2026",
    watch=motion_norms,
    kept=NORMS,
    released=RELEASED,
    needs=(NOISE,),
)
def broken_memories_absolute(trace: Trace) -> dict[str, torch.Tensor]:
    """The same with absolute z-scores: update and predicted x_0 are both far from ordinary, on whichever side.

    A third party's rewrite of Huang et al. (KDD 2026), which calibrates on runs without guidance and samples without
    it: make both runs with --guidance_scale 1 for that, or both guided, as its authors intend for Stable Diffusion.
    """
    norms = trace.watched_norms("broken_memories_absolute")
    if trace.calibration is None:
        return norms
    return norms | {"broken_memories_absolute": motion_zscores(norms, trace.calibration, absolute=True)}


def motion_zscores(norms: Mapping[str, torch.Tensor], calibration: Calibration, absolute: bool = False) -> torch.Tensor:
    """Largest over the steps of the lesser of the z-scores of update and predicted x_0, (images,).

    Broken Memories (Huang et al., KDD 2026) flags an image at the first step where both exceed 3; this is the
    threshold at which it would be flagged, so that any may be chosen afterwards.

    Args:
        norms: (images, steps) by name, of `motion_norms`.
        calibration: of ordinary images.
        absolute: count what is far below the mean as well, and take no deviation for less than 1e-5.
    """
    update, x0 = (zscores(norms[n], calibration.mean[n], calibration.std[n], absolute) for n in COMPARED)
    return torch.minimum(update, x0).amax(1)


def zscores(values: torch.Tensor, mean: torch.Tensor, std: torch.Tensor, absolute: bool) -> torch.Tensor:
    """Deviations of (images, steps) from the mean of each step, in standard deviations."""
    deviation = values - mean.to(values)
    return deviation.abs() / std.to(values).clamp(min=SMALLEST_STD) if absolute else deviation / std.to(values)
