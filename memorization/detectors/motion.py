"""Broken Memories: how far update and predicted x_0 leave the range of ordinary images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from memorization.detectors.base import detector
from memorization.trace import Calibration, Trace

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, LocalStableDiffusionPipeline

NORMS = ("latent_norm", "update_norm", "x0_norm")
COMPARED = ("update_norm", "x0_norm")


def motion_norms(pipe: "LocalStableDiffusionPipeline", step: "DenoiseStep") -> dict[str, torch.Tensor]:
    """Norms of the latents, of their update and of the predicted x_0, a dict to (images,); guided, as they move.

    Broken Memories (Huang et al., KDD 2026) compares them with those of ordinary prompts. x_0 is computed from the
    predicted noise, so that v-prediction models are right.
    """
    a = pipe.scheduler.alphas_cumprod[step.timestep]
    x0 = (step.latents - (1 - a).sqrt() * step.prediction.as_noise(step.noise_pred)) / a.sqrt()
    moved = (step.latents, step.next_latents - step.latents, x0)
    return {name: x.float().flatten(1).norm(dim=1) for name, x in zip(NORMS, moved, strict=True)}


@detector(
    "broken_memories",
    keys={"broken_memories": "broken_memories"},
    source="Huang et al., KDD 2026",
    watch=motion_norms,
    kept=NORMS,
)
def broken_memories(trace: Trace) -> dict[str, torch.Tensor]:
    """Z-scores of update and predicted x_0 against ordinary prompts (--calibration their rows).

    Without a calibration the row keeps the norms alone, which other runs can be calibrated with.
    """
    norms = trace.watched_norms("broken_memories")
    if trace.calibration is None:
        return norms
    return norms | {"broken_memories": motion_zscores(norms, trace.calibration)}


def motion_zscores(norms: Mapping[str, torch.Tensor], calibration: Calibration) -> torch.Tensor:
    """Largest over the steps of the lesser of the z-scores of update and predicted x_0, (images,).

    Broken Memories (Huang et al., KDD 2026) flags an image at the first step where both exceed 3; this is the
    threshold at which it would be flagged, so that any may be chosen afterwards.

    Args:
        norms: (images, steps) by name, of `motion_norms`.
        calibration: of ordinary images.
    """
    mean, std = calibration.mean, calibration.std
    update, x0 = ((norms[n] - mean[n].to(norms[n])) / std[n].to(norms[n]) for n in COMPARED)
    return torch.minimum(update, x0).amax(1)
