"""Retrieval in numbers with intervals over prompts: how similar, how complex what is matched, how often it is there."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from memorization.evaluation.retrieval import BACKGROUND, Matched, Retrieval
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import (
    LEVEL,
    USUAL,
    BootstrapSettings,
    Measure,
    Result,
    mean_interval,
    with_bootstrap_interval,
)
from memorization.similarity.complexity import MEASURES
from memorization.similarity.pixels import COPY_SIMILARITY

PERCENTILES = (75, 90, 95)
PAIRS = "training pictures and their captions"
FEWEST = 4  # prompts of a correlation
ROUNDING = 1e-3  # of similarities of descriptors in float16: differences below say nothing


def summarize_similarity(retrieval: Retrieval, bootstrap: BootstrapSettings = USUAL) -> list[Result]:
    """Mean, deviation, percentiles and the share above the field's cut, of every source and of the background last."""
    parts = [*retrieval.matched, *([] if retrieval.background is None else [retrieval.background])]
    return [similarity_of(part, bootstrap) for part in parts]


def similarity_of(some: Matched, bootstrap: BootstrapSettings) -> Result:
    values, prompts = some.nearest.astype(float), some.prompts
    found: Result = {"of": some.name, "is_control": some.is_control, "is_background": some.name == BACKGROUND}
    found |= {"prompts": len(set(prompts)), "pictures": len(values), "mean": mean_interval(values, prompts, bootstrap)}
    resamples = Resamples(values, prompts, bootstrap)
    found["sd"] = resamples.measure(weighted_deviation)
    for percent in PERCENTILES:
        found[f"p{percent}"] = resamples.measure(percentile(percent))
    found["above_cut"] = share_measure((values > COPY_SIMILARITY).astype(float), prompts)
    return found


Statistic = Callable[[np.ndarray, np.ndarray], float]  # of sorted values and their weights


class Resamples:
    """Values, and how often each is there in resamples of whole prompts."""

    def __init__(self, values: np.ndarray, groups: npt.ArrayLike, bootstrap: BootstrapSettings):
        """
        Args:
            values, groups: (items,); of a picture, its prompt is the group.
        """
        order = np.argsort(values, kind="stable")
        member = np.unique(np.asarray(groups), return_inverse=True)[1]
        self.values, self.member = values[order], member[order]
        self.num_groups = int(member.max()) + 1
        self.counts = bootstrap.weights(np.arange(self.num_groups))

    def measure(self, statistic: Statistic) -> Measure:
        """A statistic with its interval."""
        value = statistic(self.values, np.ones(len(self.values)))
        replicates = [statistic(self.values, counts[self.member]) for counts in self.counts]
        return with_bootstrap_interval(value, replicates, self.num_groups)


def weighted_deviation(values: np.ndarray, weights: np.ndarray) -> float:
    mean = np.average(values, weights=weights)
    return float(np.sqrt(np.average((values - mean) ** 2, weights=weights)))


def percentile(percent: float) -> Statistic:
    """The smallest value that so many percent of the weight lie at or below."""

    def statistic(values: np.ndarray, weights: np.ndarray) -> float:
        sums = np.cumsum(weights)
        return float(values[np.searchsorted(sums, percent / 100 * sums[-1] * (1 - 1e-12))])

    return statistic


def summarize_complexity(retrieval: Retrieval) -> list[Result]:
    """Rank correlation of similarity with the complexity of the matched picture, of every source but controls.

    Pictures of a prompt are no independent evidence: it is of the means of prompts.
    """
    found = []
    for some in retrieval.matched:
        if some.is_control:
            continue
        numbers = [retrieval.complexities[int(row)] for row in some.rows[:, 0]]
        for name in MEASURES:
            values = prompt_means(np.array([n[name] for n in numbers]), some.prompts)
            found.append({"of": some.name, "measure": name} | rank_correlation(values, similarity_means(some)))
    return found


def similarity_means(some: Matched) -> np.ndarray:
    return prompt_means(some.nearest, some.prompts)


def prompt_means(values: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    """Means over the pictures of each prompt, (prompts,)."""
    member = np.unique(np.asarray(prompts), return_inverse=True)[1]
    return np.bincount(member, values) / np.bincount(member)


def rank_correlation(complexities: np.ndarray, similarities: np.ndarray) -> dict[str, Any]:
    """Spearman's correlation with its interval (Bonett and Wright, Psychometrika 2000) and p value, two-sided.

    NaN where there are too few prompts, or nothing varies but by rounding.

    Args:
        complexities, similarities: of each prompt, (prompts,).
    """
    if len(complexities) < FEWEST or np.ptp(complexities) == 0 or np.ptp(similarities) < ROUNDING:
        nothing = float("nan")
        return {"prompts": len(complexities), "rho": {"value": nothing, "low": nothing, "high": nothing}, "p": nothing}
    rho, p = (float(v) for v in stats.spearmanr(complexities, similarities))
    reach = stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt((1 + rho**2 / 2) / (len(complexities) - 3))
    low, high = np.tanh(np.arctanh(np.clip(rho, -1 + 1e-9, 1 - 1e-9)) + np.array([-reach, reach]))
    return {"prompts": len(complexities), "rho": {"value": rho, "low": float(low), "high": float(high)}, "p": p}


def summarize_duplicates(retrieval: Retrieval, bootstrap: BootstrapSettings = USUAL) -> list[Result]:
    """Similarity of what matches a duplicated training picture, and of what matches a single one."""
    found = []
    for some in retrieval.matched:
        is_duplicated = np.array([retrieval.duplicated[int(row)] for row in some.rows[:, 0]])
        for name, chosen in (("duplicated", is_duplicated), ("single", ~is_duplicated)):
            prompts = [p for p, use in zip(some.prompts, chosen, strict=True) if use]
            mean = mean_interval(some.nearest[chosen], prompts, bootstrap)
            count = {"prompts": len(set(prompts)), "pictures": len(prompts)}
            found.append({"of": some.name, "match": name} | count | {"mean": mean})
    return found


def summarize_clip(retrieval: Retrieval, bootstrap: BootstrapSettings = USUAL) -> list[Result]:
    """CLIP similarity to the prompt, of generations and of training pictures; empty without CLIP."""
    parts = [(some.name, some.clip, some.prompts) for some in retrieval.matched if some.clip is not None]
    if retrieval.pairs is not None:
        parts.append((PAIRS, *retrieval.pairs))
    return [
        {"of": name, "prompts": len(set(prompts)), "pictures": len(values)}
        | {"clip": mean_interval(values, prompts, bootstrap)}
        for name, values, prompts in parts
    ]
