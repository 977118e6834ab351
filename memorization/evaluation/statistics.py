"""Statistics of evaluation: ROC and precision-recall numbers, overlap, intervals by bootstrap. NumPy only.

Everything takes weights, one row per replicate, so that a bootstrap of a thousand replicates is one pass
over scores that were sorted once. Scores are higher = memorized.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

SMALL_NEGATIVES = 100  # below this, TPR at 1 % FPR hangs on the single highest negative
CHUNK = 2_000_000  # elements of a replicates x scores array held at once
INTERVALS = "95 % intervals by resampling prompts"

Result = dict[str, Any]  # one line of a results file: what was evaluated, its counts, and a `Measure` by name


class Measure(TypedDict):
    """A number with its 95 % interval, as results files hold it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class BootstrapSettings:
    """How intervals are made: the number of resamples, and the seed that they are drawn with."""

    replicates: int = 1000
    seed: int = 0

    def weights(self, groups: npt.ArrayLike, strata: npt.ArrayLike | None = None) -> np.ndarray:
        """`bootstrap_weights` under these settings."""
        return bootstrap_weights(groups, self.replicates, self.seed, strata)


USUAL = BootstrapSettings()


@dataclass(frozen=True)
class Curve:
    """Weighted counts above each distinct threshold, highest threshold first.

    Attributes:
        thresholds: distinct scores, falling, shape (thresholds,).
        true, false: weight of memorized and other items at or above them, (replicates, thresholds).
        positives, negatives: total weights, (replicates, 1).
    """

    thresholds: np.ndarray
    true: np.ndarray
    false: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def cumulative_curve(scores: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Curve:
    """Count what lies at or above every distinct score; tied items move together.

    Args:
        scores: shape (items,).
        labels: bool, shape (items,).
        weights: shape (replicates, items); one replicate of ones by default.

    Raises:
        ValueError: for scores that are NaN: a broken score must not pass for a high one.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    weights = np.ones((1, len(scores))) if weights is None else np.atleast_2d(weights)
    order = np.argsort(-scores, kind="stable")
    scores, labels, weights = scores[order], labels[order], weights[:, order]
    ends = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    true = np.cumsum(weights * labels, 1)[:, ends]
    false = np.cumsum(weights * ~labels, 1)[:, ends]
    return Curve(scores[ends], true, false, true[:, -1:], false[:, -1:])


def auc(curve: Curve) -> np.ndarray:
    """Area under the ROC curve by trapezoids, so that ties count half, shape (replicates,)."""
    previous = np.pad(curve.true, ((0, 0), (1, 0)))[:, :-1]
    steps = np.diff(curve.false, axis=1, prepend=0)
    return (steps * (curve.true + previous)).sum(1) / (2 * curve.positives * curve.negatives)[:, 0]


def rank_auc(positives: Sequence[float] | np.ndarray, negatives: Sequence[float] | np.ndarray) -> float:
    """AUC of two plain lists of scores; NaN when either is empty or any score is NaN."""
    scores = np.concatenate([np.asarray(positives, float), np.asarray(negatives, float)])
    if not (len(positives) and len(negatives)) or np.isnan(scores).any():
        return float("nan")
    return float(auc(cumulative_curve(scores, np.arange(len(scores)) < len(positives)))[0])


def tpr_at_fpr(curve: Curve, bound: float) -> np.ndarray:
    """TPR of the last ROC point whose FPR does not exceed `bound`, shape (replicates,)."""
    allowed = curve.false <= bound * curve.negatives + 1e-9
    return np.where(allowed, curve.true, 0).max(1) / curve.positives[:, 0]


def best_f1(curve: Curve) -> np.ndarray:
    """Largest F1 over all thresholds, shape (replicates,)."""
    return (2 * curve.true / (curve.true + curve.false + curve.positives)).max(1)


def best_accuracy(curve: Curve) -> np.ndarray:
    """Largest balanced accuracy, max of 1 - (FPR + FNR) / 2, as Wen et al. (ICLR 2024) report it."""
    gain = curve.true / curve.positives - curve.false / curve.negatives
    return np.maximum(0.5 + gain.max(1) / 2, 0.5)


def average_precision(curve: Curve) -> np.ndarray:
    """Sum of precision times the step in recall, without interpolation, shape (replicates,)."""
    precision = curve.true / np.maximum(curve.true + curve.false, 1e-12)
    steps = np.diff(curve.true, axis=1, prepend=0)
    return (precision * steps).sum(1) / curve.positives[:, 0]


def best_iou(curve: Curve) -> np.ndarray:
    """Largest intersection over union over all thresholds, shape (replicates,)."""
    return (curve.true / (curve.positives + curve.false)).max(1)


@dataclass(frozen=True)
class Metric:
    """A number that says how well a score detects: what tables call it, and its function of a curve."""

    label: str
    function: Callable[[Curve], np.ndarray]


DETECTION_METRICS = {
    "auc": Metric("AUC", auc),
    "tpr_at_1_fpr": Metric("TPR@1%FPR", lambda curve: tpr_at_fpr(curve, 0.01)),
    "tpr_at_3_fpr": Metric("TPR@3%FPR", lambda curve: tpr_at_fpr(curve, 0.03)),
    "best_f1": Metric("best F1", best_f1),
    "best_accuracy": Metric("best accuracy", best_accuracy),
}


def detection_metrics(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    weights: np.ndarray | None = None,
    names: Sequence[str] = tuple(DETECTION_METRICS),
) -> dict[str, np.ndarray]:
    """Detection metrics, a dict from name to an array (replicates,).

    Args:
        scores, labels, weights: as of `cumulative_curve`.
        names: of `DETECTION_METRICS`; all by default.
    """
    parts = []
    for chunk in weight_chunks(weights, np.size(scores)):
        curve = cumulative_curve(scores, labels, chunk)
        parts.append({name: DETECTION_METRICS[name].function(curve) for name in names})
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def weight_chunks(weights: np.ndarray | None, items: int) -> list[np.ndarray | None]:
    """Replicates in groups that fit into memory; a single None where there are no weights."""
    if weights is None:
        return [None]
    size = max(1, CHUNK // max(items, 1))
    return [weights[k : k + size] for k in range(0, len(weights), size)]


def bootstrap_weights(
    groups: npt.ArrayLike, num_replicates: int, seed: int = 0, strata: npt.ArrayLike | None = None
) -> np.ndarray:
    """How often each item occurs in resamples of whole groups (prompts), drawn with replacement.

    Images of a prompt are not independent, so a prompt is drawn with all its images.

    Args:
        groups: group of every item, shape (items,).
        num_replicates: number of resamples.
        seed: of the resampling.
        strata: stratum of every item, the same within a group; each keeps its number of groups.

    Returns:
        float array (replicates, items).
    """
    groups = np.asarray(groups)
    strata = np.zeros(len(groups), int) if strata is None else np.asarray(strata)
    rng, weights = np.random.default_rng(seed), np.zeros((num_replicates, len(groups)))
    for stratum in np.unique(strata):
        inside = np.flatnonzero(strata == stratum)
        names, member = np.unique(groups[inside], return_inverse=True)
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=num_replicates)
        weights[:, inside] = counts[:, member]
    return weights


def interval(replicates: npt.ArrayLike, level: float = 0.95) -> list[float]:
    """Percentile interval of the replicates that are numbers: [low, high], or [NaN, NaN] without any."""
    values = np.asarray(replicates, float)
    values = values[np.isfinite(values)]
    if not len(values):
        return [float("nan"), float("nan")]
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()


def with_interval(value: float | np.floating, replicates: npt.ArrayLike) -> Measure:
    """A measure as every result holds it: the value and the 95 % interval of its replicates."""
    low, high = interval(replicates)
    return {"value": float(value), "low": low, "high": high}


def mean_interval(values: npt.ArrayLike, groups: npt.ArrayLike, bootstrap: BootstrapSettings = USUAL) -> Measure:
    """Mean of items and its 95 % interval by resampling groups.

    NaN items, as of a measure that is not defined on every image, are left out.

    Args:
        values, groups: shape (items,); of an image, its prompt is the group.
    """
    numbers = np.asarray(values, float)
    kept = np.isfinite(numbers)
    if not kept.any():
        return with_interval(float("nan"), [])
    numbers, weights = numbers[kept], bootstrap.weights(np.asarray(groups)[kept])
    return with_interval(numbers.mean(), resampled_means(numbers, weights))


def resampled_means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted means, shape (replicates, ...), of values (items, ...)."""
    return (weights @ values) / weights.sum(1).reshape(-1, *[1] * (np.ndim(values) - 1))


def interval_text(measure: Measure, digits: int = 3) -> str:
    """A measure with its interval as `0.912 [0.871, 0.948]`; a dash where it is not defined."""
    if not np.isfinite(measure["value"]):
        return "-"
    return f"{measure['value']:.{digits}f} [{measure['low']:.{digits}f}, {measure['high']:.{digits}f}]"
