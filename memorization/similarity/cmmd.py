"""CMMD: how far a set of images is from a set of ordinary ones, by CLIP's image features; lower = more like them.

Jayasumana et al., "Rethinking FID" (CVPR 2024): the squared maximum mean discrepancy with the Gaussian kernel
exp(-||a - b||^2 / (2 sigma^2)), sigma 10, times 1000, of unit features. The paper's equation is unbiased, the
released code takes every image with itself too, which adds about 10 times the variance of the features over the
number of images: next to nothing for the 30,000 images that it was made for, more than what is looked for in a
hundred. Both are here.

Images of one prompt are more alike than others, and a mitigated image is like the unmitigated one of its noise. So
where the paper leaves out an image with itself, pairs of one prompt are left out here, in all three sums: with one
image a prompt and other prompts in the reference that is the paper's equation. Sums are kept by pairs of prompts, of
which leaving one out (the jackknife) costs nothing. The kernel is near 1 for all pairs, so that sums are of k - 1 and
in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from memorization.errors import InputError

SIGMA, SCALE = 10, 1000
LEVEL = 0.95  # of the interval


@dataclass(frozen=True)
class FeatureSet:
    """Image features of one set.

    Attributes:
        features: unit vectors, (images, dim).
        prompts: of each image, what must not be paired with itself.
    """

    features: np.ndarray
    prompts: Sequence[str]

    def __post_init__(self) -> None:
        if len(self.features) != len(self.prompts):
            raise ValueError(f"{len(self.features)} features of {len(self.prompts)} images")

    def only(self, prompts: set[str]) -> "FeatureSet":
        """The images of some prompts."""
        kept = [k for k, prompt in enumerate(self.prompts) if prompt in prompts]
        return FeatureSet(self.features[kept], [self.prompts[k] for k in kept])


@dataclass(frozen=True)
class KernelSums:
    """Sums of k - 1 over pairs of images by their prompts, of which there are G in either set.

    Attributes:
        xx, yy, xy: (G, G).
        nx, ny: number of images, (G,).
    """

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    nx: np.ndarray
    ny: np.ndarray


def kernel_sums(x: FeatureSet, y: FeatureSet) -> KernelSums:
    """Sums over all pairs of two sets, prompts that are in both being the same ones.

    Raises:
        InputError: if the features are of other lengths, or not all numbers.
    """
    if x.features.shape[1] != y.features.shape[1]:
        raise InputError(f"CMMD needs features of one model, not of {x.features.shape[1]} and {y.features.shape[1]}")
    if not (np.isfinite(x.features).all() and np.isfinite(y.features).all()):
        raise InputError("image features hold NaN; give another --reference_model or --device cpu")
    names = {name: k for k, name in enumerate(dict.fromkeys([*x.prompts, *y.prompts]))}
    a, b = ([names[p] for p in some.prompts] for some in (x, y))
    nx, ny = (np.bincount(ids, minlength=len(names)).astype(float) for ids in (a, b))
    xx = sums_by_prompt(x.features, a, x.features, a, len(names))
    yy = sums_by_prompt(y.features, b, y.features, b, len(names))
    return KernelSums(xx, yy, sums_by_prompt(x.features, a, y.features, b, len(names)), nx, ny)


def sums_by_prompt(x: np.ndarray, a: Sequence[int], y: np.ndarray, b: Sequence[int], count: int) -> np.ndarray:
    """Sums of k - 1 over pairs of images, (count, count), prompt by prompt: memory grows with the images alone."""
    x, y, rows = x.astype(np.float64), y.astype(np.float64), np.asarray(a)
    sums, y_squares = np.zeros((count, count)), (y**2).sum(1)
    for prompt in np.unique(rows):
        some = x[rows == prompt]
        squares = np.maximum((some**2).sum(1)[:, None] + y_squares - 2 * some @ y.T, 0)
        kernel = np.expm1(-squares / (2 * SIGMA**2)).sum(0)
        sums[prompt] = np.bincount(b, kernel, minlength=count)
    return sums


def cmmd(sums: KernelSums) -> float:
    """The unbiased estimate, over pairs of different prompts; NaN for a set of a single prompt. It can be below 0."""
    return float(unbiased(*different_prompts(sums)))


def cmmd_released(sums: KernelSums) -> float:
    """The released code's number: every pair, each image with itself too; biased upwards, and never below 0."""
    xx, yy, xy = (float(s.sum()) for s in (sums.xx, sums.yy, sums.xy))
    nx, ny = sums.nx.sum(), sums.ny.sum()
    return float(SCALE * (xx / nx**2 + yy / ny**2 - 2 * xy / (nx * ny)))


def different_prompts(sums: KernelSums) -> tuple[np.ndarray, np.ndarray]:
    """Sums and numbers of pairs of different prompts, (3, G, G) each, in the order xx, yy, xy."""
    apart = 1 - np.eye(len(sums.nx))
    pairs = [np.outer(sums.nx, sums.nx), np.outer(sums.ny, sums.ny), np.outer(sums.nx, sums.ny)]
    return np.stack([sums.xx, sums.yy, sums.xy]) * apart, np.stack(pairs) * apart


def unbiased(sums: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """CMMD out of `different_prompts`, over the last two axes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        xx, yy, xy = sums.sum((-2, -1)) / pairs.sum((-2, -1))
        return SCALE * (xx + yy - 2 * xy)


def leave_one_out(sums: KernelSums) -> np.ndarray:
    """CMMD without one prompt in turn, in either set, (G,)."""
    found = []
    for values in different_prompts(sums):
        found.append(values.sum((1, 2))[:, None] - values.sum(1) - values.sum(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        xx, yy, xy = found[0] / found[1]
        return SCALE * (xx + yy - 2 * xy)


def jackknife_interval(value: float, without: np.ndarray, sums: KernelSums) -> tuple[float, float]:
    """95 % interval by leaving out prompts, with Student's t.

    Prompts of the first set alone, of the second and of both are three strata, the smallest of which t is for.

    The bootstrap would not do: a prompt that is drawn twice is paired with itself, which puts the bias back.

    Args:
        value: of all prompts; of a difference, that.
        without: the same without one prompt in turn, (G,).

    Returns:
        (low, high), NaN where a stratum has a single prompt.
    """
    here, there = sums.nx > 0, sums.ny > 0
    strata = [s for s in (here & there, here & ~there, ~here & there) if s.any()]
    sizes = [int(s.sum()) for s in strata]
    if min(sizes) < 3 or not np.isfinite(value):  # two prompts: without one there are no pairs
        return float("nan"), float("nan")
    variance = sum(
        (n - 1) / n * ((without[s] - without[s].mean()) ** 2).sum() for s, n in zip(strata, sizes, strict=True)
    )
    reach = float(stats.t.ppf((1 + LEVEL) / 2, min(sizes) - 1) * np.sqrt(variance))
    return value - reach, value + reach
