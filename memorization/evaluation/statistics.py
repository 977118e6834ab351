"""Statistics of evaluation: ROC and precision-recall numbers, overlap, intervals by bootstrap. NumPy only.

Everything takes weights, one row per replicate, so that a bootstrap of a thousand replicates is one pass
over scores that were sorted once. Scores are higher = memorized.
"""

from dataclasses import dataclass

import numpy as np

SMALL_NEGATIVES = 100  # below this, TPR at 1 % FPR hangs on the single highest negative


CHUNK = 2_000_000  # elements of a replicates x scores array held at once


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


def cumulative_curve(scores, labels, weights=None):
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


def auc(curve):
    """Area under the ROC curve by trapezoids, so that ties count half, shape (replicates,)."""
    previous = np.pad(curve.true, ((0, 0), (1, 0)))[:, :-1]
    steps = np.diff(curve.false, axis=1, prepend=0)
    return (steps * (curve.true + previous)).sum(1) / (2 * curve.positives * curve.negatives)[:, 0]


def rank_auc(positives, negatives):
    """AUC of two plain lists of scores; NaN when either is empty or any score is NaN."""
    scores = np.concatenate([positives, negatives]).astype(float)
    if not (len(positives) and len(negatives)) or np.isnan(scores).any():
        return float("nan")
    return float(auc(cumulative_curve(scores, np.arange(len(scores)) < len(positives)))[0])


def tpr_at_fpr(curve, bound):
    """TPR of the last ROC point whose FPR does not exceed `bound`, shape (replicates,)."""
    allowed = curve.false <= bound * curve.negatives + 1e-9
    return np.where(allowed, curve.true, 0).max(1) / curve.positives[:, 0]


def best_f1(curve):
    """Largest F1 over all thresholds, shape (replicates,)."""
    return (2 * curve.true / (curve.true + curve.false + curve.positives)).max(1)


def best_accuracy(curve):
    """Largest balanced accuracy, max of 1 - (FPR + FNR) / 2, as Wen et al. (ICLR 2024) report it."""
    gain = curve.true / curve.positives - curve.false / curve.negatives
    return np.maximum(0.5 + gain.max(1) / 2, 0.5)


def average_precision(curve):
    """Sum of precision times the step in recall, without interpolation, shape (replicates,)."""
    precision = curve.true / np.maximum(curve.true + curve.false, 1e-12)
    steps = np.diff(curve.true, axis=1, prepend=0)
    return (precision * steps).sum(1) / curve.positives[:, 0]


def best_iou(curve):
    """Largest intersection over union over all thresholds, shape (replicates,)."""
    return (curve.true / (curve.positives + curve.false)).max(1)


DETECTION_METRICS = {
    "auc": auc,
    "tpr_at_1_fpr": lambda curve: tpr_at_fpr(curve, 0.01),
    "tpr_at_3_fpr": lambda curve: tpr_at_fpr(curve, 0.03),
    "best_f1": best_f1,
    "best_accuracy": best_accuracy,
}


def detection_metrics(scores, labels, weights=None):
    """Every detection metric, a dict from name to an array (replicates,)."""
    curves = (cumulative_curve(scores, labels, chunk) for chunk in weight_chunks(weights, len(scores)))
    parts = [{name: metric(curve) for name, metric in DETECTION_METRICS.items()} for curve in curves]
    return {name: np.concatenate([part[name] for part in parts]) for name in DETECTION_METRICS}


def weight_chunks(weights, items):
    """Replicates in groups that fit into memory; a single None where there are no weights."""
    if weights is None:
        return [None]
    size = max(1, CHUNK // max(items, 1))
    return [weights[k : k + size] for k in range(0, len(weights), size)]


def bootstrap_weights(groups, num_replicates, seed=0, strata=None):
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


def interval(replicates, level=0.95):
    """Percentile interval of the replicates that are numbers: [low, high], or [NaN, NaN] without any."""
    replicates = np.asarray(replicates, float)
    replicates = replicates[np.isfinite(replicates)]
    if not len(replicates):
        return [float("nan"), float("nan")]
    return np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2]).tolist()


def with_interval(value, replicates):
    """A measure as every result holds it: the value and the 95 % interval of its replicates."""
    low, high = interval(replicates)
    return {"value": float(value), "low": low, "high": high}


def mean_interval(values, groups, num_replicates=1000, seed=0):
    """Mean of items and its 95 % interval by resampling groups: {"value", "low", "high"}.

    NaN items, as of a measure that is not defined on every image, are left out.
    """
    values, groups = np.asarray(values, float), np.asarray(groups)
    kept = np.isfinite(values)
    if not kept.any():
        return with_interval(float("nan"), [])
    values, groups = values[kept], groups[kept]
    return with_interval(values.mean(), resampled_means(values, bootstrap_weights(groups, num_replicates, seed)))


def resampled_means(values, weights):
    """Weighted means, shape (replicates, ...), of values (items, ...)."""
    return (weights @ values) / weights.sum(1).reshape(-1, *[1] * (np.ndim(values) - 1))


def interval_text(measure, digits=3):
    """A measure with its interval as `0.912 [0.871, 0.948]`; a dash where it is not defined."""
    if not np.isfinite(measure["value"]):
        return "-"
    return f"{measure['value']:.{digits}f} [{measure['low']:.{digits}f}, {measure['high']:.{digits}f}]"
