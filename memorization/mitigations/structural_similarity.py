"""Structural similarity at several scales, as torchmetrics 1 computes it for the thresholds that NeMo was released
with: the terms of one comparison depend on all that are compared in one call, by their common range."""

import torch
import torch.nn.functional as F

SIGMA, RADIUS = 1.5, 5  # of the Gaussian window of 11 positions
WINDOW = 2 * RADIUS + 1
K1, K2 = 0.01, 0.03
SCALES, EXPONENT = 3, 0.33


def multiscale_similarity(a: torch.Tensor, b: torch.Tensor, scales: int = SCALES) -> torch.Tensor:
    """MS-SSIM of pairs of maps (Wang et al., 2003), with equal exponents that add to 0.99; 1 where they are the same.

    The product over scales of contrast and structure, and at the coarsest of luminance too, each the mean over all
    channels and positions, from 0 up. The range in the constants is that of all maps of the call at their scale, and
    contrast alone leaves out a margin of five positions.

    Args:
        a, b: (pairs, channels, height, width).
        scales: each halves the one before; see `number_of_scales`.

    Returns:
        float32 tensor (pairs,).
    """
    a, b, found = a.float(), b.float(), []
    for scale in range(scales):
        contrast, similarity = similarity_terms(a, b)
        found.append(similarity if scale == scales - 1 else contrast)
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return (torch.stack(found).relu() ** (SCALES * EXPONENT / scales)).prod(0)


def number_of_scales(height: int, width: int) -> int:
    """Scales that torchmetrics computes with this window: three from 44 positions on, as released; 0 below 11.

    Where it refuses three, two (from 12 positions on) or one are ours, and so are their exponents.
    """
    smallest = min(height, width)
    fitting = (n for n in (3, 2, 1) if smallest // max(1, n - 1) ** 2 >= WINDOW and smallest >> (n - 1) > RADIUS)
    return next(fitting, 0)


def similarity_terms(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(contrast and structure, the same with luminance) of maps (pairs, channels, height, width), each (pairs,)."""
    data_range = torch.maximum(a.max() - a.min(), b.max() - b.min())
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    mean_a, mean_b = blurred(a), blurred(b)
    variance_a = (blurred(a * a) - mean_a.square()).clamp(min=0)
    variance_b = (blurred(b * b) - mean_b.square()).clamp(min=0)
    contrast = (2 * (blurred(a * b) - mean_a * mean_b) + c2) / (variance_a + variance_b + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    inner = contrast[..., RADIUS:-RADIUS, RADIUS:-RADIUS]
    return inner.flatten(1).mean(1), (contrast * luminance).flatten(1).mean(1)


def blurred(x: torch.Tensor) -> torch.Tensor:
    """Every channel under the Gaussian window, with reflected edges."""
    places = torch.arange(-RADIUS, RADIUS + 1, dtype=x.dtype, device=x.device)
    line = torch.exp(-((places / SIGMA) ** 2) / 2)
    line = line / line.sum()
    window = (line[:, None] * line).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, [RADIUS] * 4, mode="reflect"), window, groups=x.shape[1])
