"""ROC and precision-recall numbers of scores against labels. Scores are higher = memorized."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Curve:
    """Counts above each distinct threshold, highest threshold first.

    Attributes:
        thresholds: distinct scores, falling, shape (thresholds,).
        true, false: how many memorized and other items lie at or above them, (thresholds,).
    """

    thresholds: np.ndarray
    true: np.ndarray
    false: np.ndarray

    @property
    def positives(self) -> int:
        return int(self.true[-1])

    @property
    def negatives(self) -> int:
        return int(self.false[-1])

    @property
    def tpr(self) -> np.ndarray:
        return self.true / self.positives

    @property
    def fpr(self) -> np.ndarray:
        return self.false / self.negatives


def cumulative_curve(scores: npt.ArrayLike, labels: npt.ArrayLike) -> Curve:
    """Count what lies at or above every distinct score; tied items move together.

    Args:
        scores: shape (items,).
        labels: bool, shape (items,).

    Raises:
        ValueError: for scores that are NaN: a broken score must not pass for a high one.
    """
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    ends = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    return Curve(scores[ends], np.cumsum(labels)[ends], np.cumsum(~labels)[ends])


def auc(curve: Curve) -> float:
    """Area under the ROC curve by trapezoids, so that ties count half."""
    steps = np.diff(curve.false, prepend=0)
    return float((steps * (curve.true + np.r_[0, curve.true[:-1]])).sum() / (2 * curve.positives * curve.negatives))


def rank_auc(positives: Sequence[float] | np.ndarray, negatives: Sequence[float] | np.ndarray) -> float:
    """AUC of two plain lists of scores; NaN when either is empty or any score is NaN."""
    scores = np.concatenate([np.asarray(positives, float), np.asarray(negatives, float)])
    if not (len(positives) and len(negatives)) or np.isnan(scores).any():
        return float("nan")
    return auc(cumulative_curve(scores, np.arange(len(scores)) < len(positives)))


def tpr_at_fpr(curve: Curve, bound: float) -> float:
    """TPR of the last ROC point whose FPR does not exceed `bound`."""
    return float(np.where(curve.fpr <= bound + 1e-12, curve.tpr, 0).max())


def f1(tpr: npt.ArrayLike, fpr: npt.ArrayLike, positives: int, negatives: int) -> np.ndarray:
    """F1 of a decision with these rates."""
    found = np.asarray(tpr) * positives
    return 2 * found / np.maximum(found + np.asarray(fpr) * negatives + positives, 1e-12)


def balanced_accuracy(tpr: npt.ArrayLike, fpr: npt.ArrayLike) -> np.ndarray:
    """1 - (FPR + FNR) / 2, as Wen et al. (ICLR 2024) report it."""
    return (1 + np.asarray(tpr) - np.asarray(fpr)) / 2


def average_precision(curve: Curve) -> float:
    """Sum of precision times the step in recall, without interpolation."""
    return float((curve.true / (curve.true + curve.false) * np.diff(curve.true, prepend=0)).sum() / curve.positives)


def best_iou(curve: Curve) -> float:
    """Largest intersection over union over all thresholds."""
    return float((curve.true / (curve.positives + curve.false)).max())
