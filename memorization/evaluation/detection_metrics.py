"""How well a score detects: numbers with intervals that are honest at 0 and 1, and where images of a prompt are alike.

All take scores (items,), labels (items,), True for memorized, and groups (items,), the prompt of each. Which interval
is which, and how often each covers: `experiments/coverage.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from memorization.evaluation.curves import auc, balanced_accuracy, cumulative_curve, f1, tpr_at_fpr
from memorization.evaluation.shares import PRIOR, exact_bounds, share_measure
from memorization.evaluation.statistics import LEVEL, Measure

SMALL_NEGATIVES = 100  # below this, TPR at 1 % FPR hangs on the single highest negative
ALIKE = 1e-3  # least ratio of a variance to Hanley and McNeil's
TINY = 1e-9  # of an AUC
DOUBT = 0.25  # prompts' worth of doubt that two scores go together
OPTIMUM = 1.386  # what Kolmogorov's 95 % band of a whole curve is wider than the interval of one of its points


@dataclass(frozen=True)
class Ranked:
    """An AUC and how it varies.

    Attributes:
        value: the AUC.
        residuals: each prompt's part in it less the mean, (groups,): their squares add up to its variance.
        counts: prompts of either class.
    """

    value: float
    residuals: np.ndarray
    counts: tuple[int, int]

    @property
    def evidence(self) -> float:
        """Prompts that are ranked wrongly, or rightly where those are fewer."""
        return min(self.counts) * min(self.value, 1 - self.value)

    def variance(self, other: "Ranked | None" = None) -> float:
        """Variance over prompts, or covariance with another AUC: DeLong's of clusters (Obuchowski, Biometrics 1997)."""
        few = min(self.counts)
        return float(few / max(few - 1, 1) * (self.residuals * (other or self).residuals).sum())

    def bounds(self) -> tuple[float, float]:
        """Newcombe's interval (Statistics in Medicine 2006, method 5), with the variance that the sample shows.

        It solves |AUC - a| = t sqrt(r V(a)) for a, V being Hanley and McNeil's variance of a for so many prompts, so
        that it has a width at 0 and 1; r is the ratio of the sample's own variance to V, drawn towards 1 where few
        prompts are ranked wrongly and say little of it.
        """
        usual = float(hanley_mcneil(self.value, self.counts))
        seen = self.variance() / usual if usual > 0 else 1.0
        ratio = max((seen * self.evidence + PRIOR / 2) / (self.evidence + PRIOR / 2), ALIKE)
        quantile = float(stats.t.ppf((1 + LEVEL) / 2, max(min(self.counts) - 1, 1)))

        def beyond(a: float, sign: int) -> float:
            return sign * (self.value - a) - quantile * float(np.sqrt(ratio * hanley_mcneil(a, self.counts)))

        # a = 0 and a = 1 have no variance and solve it too, where the AUC is that: what is sought lies inside of them.
        low = 0.0 if self.value <= TINY else optimize.brentq(beyond, 0, self.value - TINY, args=(1,))
        high = 1.0 if self.value >= 1 - TINY else optimize.brentq(beyond, self.value + TINY, 1, args=(-1,))
        return float(low), float(high)


def hanley_mcneil(a: float, counts: tuple[int, int]) -> float:
    """Variance of an AUC of `a` (Hanley and McNeil, Radiology 1982), with both counts' mean in the middle terms."""
    mean = sum(counts) / 2 - 1
    return a * (1 - a) * (1 + mean * (1 - a) / (2 - a) + mean * a / (1 + a)) / (counts[0] * counts[1])


def ranked(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike) -> Ranked:
    """The AUC and every prompt's part in it."""
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    value = auc(cumulative_curve(scores, labels))
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    residuals, counts = np.zeros(len(names)), []
    for side in (True, False):
        own, other = np.flatnonzero(labels == side), np.sort(scores[labels != side])
        below = sum(np.searchsorted(other, scores[own], end) for end in ("left", "right")) / (2 * len(other))
        placed = below if side else 1 - below
        residuals += np.bincount(member[own], (placed - value) / len(own), len(names))
        counts.append(len(np.unique(member[own])))
    return Ranked(value, residuals, (counts[0], counts[1]))


def auc_measure(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike) -> Measure:
    """AUC with the interval of `Ranked.bounds`."""
    found = ranked(scores, labels, groups)
    low, high = found.bounds()
    return {"value": found.value, "low": low, "high": high}


def auc_difference_measure(
    scores: npt.ArrayLike, others: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike
) -> Measure:
    """AUC of `scores` less that of `others` on the same items.

    The interval squares and adds the distances to either AUC's own bounds, less what their correlation takes away
    (MOVER: Zou and Donner, Statistics in Medicine 2008), so that it has a width where both are 0 or 1. Scores that rank
    all items alike differ by 0.
    """
    if np.array_equal(stats.rankdata(scores), stats.rankdata(others)):
        return {"value": 0.0, "low": 0.0, "high": 0.0}
    a, b = ranked(scores, labels, groups), ranked(others, labels, groups)
    scale = np.sqrt(a.variance() * b.variance())
    evidence = min(a.evidence, b.evidence)
    shared = a.variance(b) / scale * evidence / (evidence + DOUBT) if scale > 0 else 0.0
    (a_low, a_high), (b_low, b_high) = a.bounds(), b.bounds()
    value = a.value - b.value
    below, above = (
        together(a.value - a_low, b_high - b.value, shared),
        together(a_high - a.value, b.value - b_low, shared),
    )
    return {"value": value, "low": max(value - below, -1.0), "high": min(value + above, 1.0)}


def together(first: float, second: float, correlation: float = 0.0) -> float:
    """How far a difference reaches whose parts reach so far each."""
    return float(np.sqrt(max(first**2 + second**2 - 2 * correlation * first * second, 0)))


def tpr_measure(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike, bound: float) -> Measure:
    """TPR of the last ROC point whose FPR does not exceed `bound`, with an exact interval of what it is in truth.

    The threshold is as uncertain as the rate: of few negatives the highest may lie anywhere in the last per cent. The
    ends are the TPR, by Clopper and Pearson, at the lowest threshold whose FPR may still exceed the bound and the
    highest that may not, prompts counting as trials; of the 5 % a quarter goes to each of the four. Below 437
    negative prompts at 1 % (144 at 3 %) the lower end is 0: so few cannot show that any threshold is high enough.
    """
    labels, groups = np.asarray(labels, bool), np.asarray(groups)
    curve = cumulative_curve(scores, labels)
    positives, negatives = (len(np.unique(groups[labels == side])) for side in (True, False))
    rest = (1 - LEVEL) / 2
    least, most = exact_bounds(curve.fpr, negatives, rest)
    strict, lax = np.flatnonzero(most <= bound), np.flatnonzero(least >= bound)
    low, _ = exact_bounds(curve.tpr[strict[-1]] if len(strict) else 0.0, positives, rest)
    _, high = exact_bounds(curve.tpr[lax[0]] if len(lax) else 1.0, positives, rest)
    return {"value": tpr_at_fpr(curve, bound), "low": float(low), "high": float(high)}


def best_measure(
    scores: npt.ArrayLike,
    labels: npt.ArrayLike,
    groups: npt.ArrayLike,
    function: Callable[[npt.ArrayLike, npt.ArrayLike], np.ndarray],
) -> Measure:
    """Largest value over all thresholds, and everything called memorized among them, of a function of TPR and FPR.

    The threshold is the best on these items, an oracle. The interval is that of both rates at that threshold, each
    exact, squared and added, and reaches further down: the best of many thresholds is too good by luck.
    """
    scores, labels, groups = np.asarray(scores, float), np.asarray(labels, bool), np.asarray(groups)
    curve = cumulative_curve(scores, labels)
    place = int(np.argmax(function(curve.tpr, curve.fpr)))
    above = scores >= curve.thresholds[place]
    tpr, fpr = (share_measure(above[labels == side], groups[labels == side]) for side in (True, False))
    value = float(function(tpr["value"], fpr["value"]))
    lower = value - function(tpr["low"], fpr["value"]), value - function(tpr["value"], fpr["high"])
    higher = function(tpr["high"], fpr["value"]) - value, function(tpr["value"], fpr["low"]) - value
    low, high = value - OPTIMUM * together(*map(float, lower)), value + together(*map(float, higher))
    return {"value": value, "low": max(low, 0.0), "high": min(high, 1.0)}


def best_f1_measure(scores: npt.ArrayLike, labels: npt.ArrayLike, groups: npt.ArrayLike) -> Measure:
    """Largest F1 over all thresholds."""
    labels = np.asarray(labels, bool)
    counts = int(labels.sum()), int((~labels).sum())
    return best_measure(scores, labels, groups, lambda tpr, fpr: f1(tpr, fpr, *counts))


@dataclass(frozen=True)
class Metric:
    """A number that says how well a score detects: what tables call it, and its function of scores, labels, groups."""

    label: str
    measure: Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], Measure]


DETECTION_METRICS = {
    "auc": Metric("AUC", auc_measure),
    "tpr_at_1_fpr": Metric("TPR@1%FPR", partial(tpr_measure, bound=0.01)),
    "tpr_at_3_fpr": Metric("TPR@3%FPR", partial(tpr_measure, bound=0.03)),
    "best_f1": Metric("best F1", best_f1_measure),
    "best_accuracy": Metric("best accuracy", partial(best_measure, function=balanced_accuracy)),
}
