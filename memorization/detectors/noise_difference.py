"""D: how hard the prompt steers the prediction; the same at the last step; and with the first step's map as a mask."""

import torch

from memorization.detectors.base import detector
from memorization.needs import NOISE
from memorization.trace import Trace
from noise_norms import norms_from_maps


@detector(
    "noise_diff_norm",
    keys={"text_noise_norm": "D"},
    source="Wen et al., ICLR 2024",
    steps=1,
    always=True,
    stepped=True,
)
def noise_diff_norm(trace: Trace) -> dict[str, torch.Tensor]:
    """D_t = norm of eps(x_t, prompt) - eps(x_t, empty prompt), the mean over the first T steps.

    Wen et al. (ICLR 2024). Costs nothing beyond the generation; T = 1 needs two evaluations.
    """
    return {"text_noise_norm": norms_from_maps(trace.maps)}


@detector("score_diff", keys={"score_diff": "score_diff"}, source="Kim and Lee, ICML 2026", needs=(NOISE,))
def score_diff(trace: Trace) -> dict[str, torch.Tensor]:
    """Mean over positions of the squared difference of the scores at the last step, summed over channels.

    Kim and Lee (ICML 2026), with the unconditional score as the baseline: s = -eps / sqrt(1 - alphas_cumprod). The map
    that the mean is taken of is their free map for localisation. Costs nothing beyond the generation.
    """
    variance = (1 - trace.pipe.scheduler.alphas_cumprod[trace.last.timestep]).float()
    return {"score_diff": trace.diff_maps[-1].mean((1, 2)) / variance}


@detector(
    "noise_diff_map",
    keys={"text_noise_norm_early_masked": "LD with noise_diff_map"},
    source="ours",
    steps=1,
)
def early_masked_norm(trace: Trace) -> dict[str, torch.Tensor]:
    """LD at T = 1 with the first step's own noise_diff^2 as the mask: local, without a finished image."""
    first = trace.diff_maps[0][:, None]
    return {"text_noise_norm_early_masked": norms_from_maps(first, first)[:, 0]}
