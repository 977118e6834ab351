"""Score change: how fast the prediction turns in the first steps, by the older definition and by the newer one."""

import torch

from memorization.detectors.base import detector
from memorization.needs import NOISE
from memorization.trace import Trace

FIRST = (0, 1, 2)


@detector(
    "score_change",
    keys={"score_change_1": "score_change_1", "score_change_2": "score_change_2"},
    source="early-detection study, 2026",
    steps=3,
    least_steps=3,
    needs=(NOISE,),
)
def score_change(trace: Trace) -> dict[str, torch.Tensor]:
    """Squared change of eps_text from the first step to the second, and from there to the third: the older definition.

    Along the guided trajectory; the authors' first release ("DSM"), which looks at the conditional prediction alone.
    `score_gap_change` has their newer definition. Costs nothing beyond the first three steps.
    """
    noises = [trace.steps[k].prediction.noise(1).float() for k in FIRST]
    return changes(noises, "score_change")


@detector(
    "score_gap_change",
    keys={"score_gap_change_1": "score_gap_change_1", "score_gap_change_2": "score_gap_change_2"},
    source="Score Evolution (DSM), 2026",
    steps=3,
    least_steps=3,
    needs=(NOISE,),
)
def score_gap_change(trace: Trace) -> dict[str, torch.Tensor]:
    """Squared change of s_text - s_uncond from the first step to the second, and to the third: the newer definition.

    s = -eps / sqrt(1 - alphas_cumprod) at each step's own timestep. The authors' DSM(0 to 1) and DSM(1 to 2), along
    the guided trajectory; theirs starts all prompts of a seed from one noise. Costs nothing beyond the first three
    steps.
    """
    sigmas = [(1 - trace.pipe.scheduler.alphas_cumprod[trace.steps[k].timestep]).sqrt() for k in FIRST]
    gaps = [-trace.steps[k].noise_diff.float() / sigma.float() for k, sigma in zip(FIRST, sigmas, strict=True)]
    return changes(gaps, "score_gap_change")


def changes(values: list[torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    """Squared norms of what each of the values, (images, ...), differs by from the one before."""
    pairs = enumerate(zip(values, values[1:], strict=False), 1)
    return {f"{name}_{k}": (b - a).flatten(1).square().sum(1) for k, (a, b) in pairs}
