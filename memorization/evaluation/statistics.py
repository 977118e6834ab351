"""Numbers with intervals as results hold them, and the bootstrap over prompts that intervals of means are made by."""

from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from scipy import stats

LEVEL = 0.95  # of every interval
INTERVALS = "95 % intervals over prompts"

Result = dict[str, Any]  # one line of a results file: what was evaluated, its counts, and a `Measure` by name


class Bounded(TypedDict):
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


class Measure(Bounded, total=False):
    """A number with its 95 % interval, as results files hold it; a share has what was counted, and of how many."""

    count: int
    of: int


@dataclass(frozen=True)
class BootstrapSettings:
    """How intervals are made: the number of resamples, and the seed that they are drawn with."""

    replicates: int = 1000
    seed: int = 0

    def weights(self, groups: npt.ArrayLike) -> np.ndarray:
        """`bootstrap_weights` under these settings."""
        return bootstrap_weights(groups, self.replicates, self.seed)


USUAL = BootstrapSettings()


def bootstrap_weights(groups: npt.ArrayLike, num_replicates: int, seed: int = 0) -> np.ndarray:
    """How often each item occurs in resamples of whole groups (prompts), drawn with replacement.

    Images of a prompt are not independent, so a prompt is drawn with all its images.

    Args:
        groups: group of every item, shape (items,).
        num_replicates: number of resamples.
        seed: of the resampling.

    Returns:
        float array (replicates, items).
    """
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), num_replicates)
    return counts[:, member].astype(float)


def resampled_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means, shape (replicates, ...), of values (items, ...)."""
    return (weights @ values) / weights.sum(1).reshape(-1, *[1] * (np.ndim(values) - 1))


def with_bootstrap_interval(value: float | np.floating, replicates: npt.ArrayLike, num_groups: int) -> Measure:
    """The value with the percentile interval of its replicates, at the level that Student's t has for so many groups.

    Plain percentiles are too narrow for few groups: of a mean, by sqrt((n - 1) / n) and the normal distribution in
    place of Student's (Hesterberg, The American Statistician 2015, "expanded percentile"). A value that is NaN has no
    interval.
    """
    values = np.asarray(replicates, float)
    if not np.isfinite(value) or not len(values):
        return {"value": float(value), "low": float("nan"), "high": float("nan")}
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, max(num_groups - 1, 1)))
    tail = float(stats.norm.cdf(-quantile * np.sqrt(num_groups / max(num_groups - 1, 1))))
    low, high = np.quantile(values, [tail, 1 - tail])
    return {"value": float(value), "low": float(low), "high": float(high)}


UNIT = (0.0, 1.0)  # what shares of pixels and areas under curves lie in
UNBOUNDED = (-np.inf, np.inf)


def mean_interval(
    values: npt.ArrayLike,
    groups: npt.ArrayLike,
    bootstrap: BootstrapSettings = USUAL,
    within: tuple[float, float] = UNBOUNDED,
) -> Measure:
    """Mean of items with a 95 % interval over groups: from the lower to the higher end of Student's t and bootstrap-t.

    Student's t is right for symmetric values and the bootstrap's t (Efron 1981) for skewed ones; neither knows what
    large values are so rare that the sample has none. NaN items, as of a measure that is not defined on every image,
    are left out.

    Args:
        values, groups: shape (items,); of an image, its prompt is the group.
        within: what values, and so their mean, can be; the interval ends there.
    """
    numbers = np.asarray(values, float)
    kept = np.isfinite(numbers)
    if not kept.any():
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    member = np.unique(np.asarray(groups)[kept], return_inverse=True)[1]
    sizes = np.bincount(member).astype(float)
    sums, mean = np.bincount(member, numbers[kept]), float(numbers[kept].mean())
    error = ratio_error(sums, sizes, np.ones((1, len(sizes))))[0]
    if len(sizes) < 2 or error <= 1e-9 * (abs(mean) + 1):  # nothing that varies
        return {"value": mean, "low": mean, "high": mean}
    weights = bootstrap.weights(np.arange(len(sizes)))
    spread = np.maximum(ratio_error(sums, sizes, weights), error / 10)  # a resample of few prompts has hardly any
    studentised = ((weights @ sums) / (weights @ sizes) - mean) / spread
    below, above = np.quantile(studentised, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    quantile = float(stats.t.ppf((1 + LEVEL) / 2, len(sizes) - 1))
    return {
        "value": mean,
        "low": float(np.clip(mean - error * max(below, quantile), *within)),
        "high": float(np.clip(mean - error * min(above, -quantile), *within)),
    }


def ratio_error(sums: np.ndarray, sizes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Standard error of a mean over items that come in groups, (replicates,): the spread of the groups' residuals.

    Args:
        sums, sizes: of each group's items, (groups,).
        weights: how often each group is there, (replicates, groups).
    """
    total = weights @ sizes
    residuals = sums - (weights @ sums / total)[:, None] * sizes
    count = len(sizes)
    return np.sqrt(count / max(count - 1, 1) * (weights * residuals**2).sum(1)) / total


def interval_text(measure: Measure, digits: int = 3) -> str:
    """A measure with its interval as `0.912 [0.871, 0.948]`, a share with its count; a dash where it is not defined."""
    if not np.isfinite(measure["value"]):
        return "-"
    text = f"{measure['value']:.{digits}f} [{measure['low']:.{digits}f}, {measure['high']:.{digits}f}]"
    return f"{text}, {measure['count']} of {measure['of']}" if "of" in measure else text
