"""Intervals of shares that are honest at 0 and 1, and where the images of a prompt are alike."""

import numpy as np
import numpy.typing as npt
from scipy import stats

from memorization.evaluation.statistics import LEVEL, Measure

PRIOR = 4  # prompts' worth of belief that the images of a prompt are all alike, against what the sample shows of it


def exact_bounds(share: npt.ArrayLike, size: npt.ArrayLike, miss: float = 1 - LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Clopper and Pearson's interval of shares of so many independent trials, which need not be whole numbers.

    Args:
        share, size: of any shapes that go together; shares in [0, 1].
        miss: probability that the interval may miss with, half of it at either end.
    """
    share, size = np.broadcast_arrays(np.asarray(share, float), np.asarray(size, float))
    found = share * size
    with np.errstate(invalid="ignore"):
        low = np.where(share <= 0, 0.0, stats.beta.ppf(miss / 2, found, size - found + 1))
        high = np.where(share >= 1, 1.0, stats.beta.ppf(1 - miss / 2, found + 1, size - found))
    return low, high


def effective_size(values: npt.ArrayLike, groups: npt.ArrayLike) -> float:
    """How many independent trials a share of grouped trials is worth: from the number of groups to that of trials.

    The design effect (Kish), as Korn and Graubard (Survey Methodology 1998) put it into the exact interval. Few events
    say little about whether those of a group go together, so it is drawn towards what it is where they all do: at 0 and
    1, where the sample says nothing of it, the groups alone count.

    Args:
        values: 0 or 1, shape (items,).
        groups: of each item, (items,).
    """
    values = np.asarray(values, float)
    member = np.unique(np.asarray(groups), return_inverse=True)[1]
    sizes, share = np.bincount(member).astype(float), values.mean()
    together = (sizes**2).sum() / sizes.sum() ** 2  # variance over share * (1 - share) where groups are of one piece
    if not 0 < share < 1 or len(sizes) in (1, len(values)):
        return float(1 / together)
    residuals = np.bincount(member, values - share)
    seen = len(sizes) / (len(sizes) - 1) * (residuals**2).sum() / len(values) ** 2 / (share * (1 - share))
    evidence = len(sizes) * min(share, 1 - share)
    return min(1 / ((seen * evidence + together * PRIOR) / (evidence + PRIOR)), len(values))


def share_measure(values: npt.ArrayLike, groups: npt.ArrayLike) -> Measure:
    """Share of items with its exact 95 % interval (Clopper and Pearson) at the effective number of trials.

    NaN items, as of something that is not defined on every image, are left out.

    Args:
        values: 0 or 1, shape (items,); of an image, its prompt is the group.
        groups: (items,).
    """
    numbers = np.asarray(values, float)
    kept = np.isfinite(numbers)
    if not kept.any():
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    numbers, share = numbers[kept], float(numbers[kept].mean())
    low, high = exact_bounds(share, effective_size(numbers, np.asarray(groups)[kept]))
    counted, total = round(float(numbers.sum())), len(numbers)
    return {"value": share, "low": float(low), "high": float(high), "count": counted, "of": total}
