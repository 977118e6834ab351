"""LD: D weighed with the bright-ending mask, its two controls, and the brightness of the mask alone."""

import torch

from attn_utils import shuffle_mask
from memorization.detectors.base import detector
from memorization.trace import Trace
from noise_norms import norms_from_maps

CHEN = "Chen et al., ICLR 2025"


@detector("be_masked", keys={"text_noise_norm_masked": "LD"}, source=CHEN, always=True, stepped=True, needs_mask=True)
def masked_norm(trace: Trace) -> dict[str, torch.Tensor]:
    """LD_t = norm of the noise difference times the bright-ending mask, over the mask's mean.

    Chen et al. (ICLR 2025), equation 8. The mask is that of the finished image, or of an earlier pass.
    """
    return {"text_noise_norm_masked": norms_from_maps(trace.maps, trace.mask)}


@detector(
    "be_shuffled",
    keys={"text_noise_norm_shuffled": "LD shuffled mask"},
    source="ours, a control",
    always=True,
    stepped=True,
    needs_mask=True,
)
def shuffled_norm(trace: Trace) -> dict[str, torch.Tensor]:
    """LD with the mask's positions shuffled: what its unevenness gives, without its place."""
    assert trace.mask is not None
    return {"text_noise_norm_shuffled": norms_from_maps(trace.maps, shuffle_mask(trace.mask, trace.seeds))}


@detector(
    "be_rms",
    keys={"text_noise_norm_rms": "LD rms"},
    source="ours, a control",
    always=True,
    stepped=True,
    needs_mask=True,
)
def rms_norm(trace: Trace) -> dict[str, torch.Tensor]:
    """LD over the root mean square of the mask: equal to D where the difference is flat, whatever the mask."""
    return {"text_noise_norm_rms": norms_from_maps(trace.maps, trace.mask, "rms")}


@detector("be_mean", keys={"end_token_attention": "end-token attention"}, source=CHEN, always=True)
def mean_brightness(trace: Trace) -> dict[str, torch.Tensor]:
    """Mean of the bright-ending mask: attention to the prompt's end token at the last step.

    The mask of Chen et al. (ICLR 2025); its mean as a score is ours.
    """
    assert trace.bright_ending is not None
    return {"end_token_attention": trace.bright_ending.mean((1, 2, 3))}
