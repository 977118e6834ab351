"""Judged images in numbers with intervals: rank, AUC against controls, shares of copies, and how near others lie."""

from collections.abc import Sequence

import numpy as np

from memorization.evaluation.detection_metrics import auc_measure
from memorization.evaluation.judged_images import ALL, Line, column
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import USUAL, BootstrapSettings, Measure, Result, mean_interval
from memorization.similarity.pixels import COPY_SIMILARITY

RARE = 0.99  # quantile of different training pictures beside which generations are put


def summarize_copies(
    lines: Sequence[Line], controls: Sequence[Line], between: np.ndarray, bootstrap: BootstrapSettings = USUAL
) -> list[Result]:
    """Numbers with intervals of every run and kind of prompt.

    Args:
        lines, controls: of the runs' images and of the controls', with what `decide` puts in.
        between: similarity of training pictures to their nearest other, (pictures,).
    """
    limit = float(np.quantile(between, RARE)) if len(between) else float("nan")
    results = []
    for run in dict.fromkeys(line["run"] for line in lines):
        of_run = [line for line in lines if line["run"] == run]
        kinds = list(dict.fromkeys(line["kind"] for line in of_run))
        for kind in [*kinds, ALL] if len(kinds) > 1 else kinds:
            some = [line for line in of_run if kind in (ALL, line["kind"])]
            results.append({"run": run, "kind": kind} | summarize_some(some, controls, limit, bootstrap))
    return results


def summarize_some(
    some: Sequence[Line], controls: Sequence[Line], limit: float, bootstrap: BootstrapSettings
) -> Result:
    """Numbers of some images of a run."""
    prompts = [line["prompt"] for line in some]
    shares = {
        "rank1": column(some, "is_right"),
        "copies": column(some, "is_copy"),
        "above_cut": (column(some, "cosine") > COPY_SIMILARITY).astype(float),
        "above_background": (column(some, "nearest") > limit).astype(float),
    }
    found: Result = {"prompts": len(set(prompts)), "images": len(some)}
    found |= {"own": mean_interval(column(some, "own"), prompts, bootstrap)}
    found |= {name: share_measure(values, prompts) for name, values in shares.items()}
    found["auc"] = auc_to_controls(some, controls, "own", "nearest")
    part = [line for line in some if not np.isnan(line["region"])]
    if part:
        found |= {"region_prompts": len({line["prompt"] for line in part})}
        for name, own, nearest in (("region", "region", "region"), ("whole", "cosine_own", "cosine")):
            values = mean_interval(column(part, own), [line["prompt"] for line in part], bootstrap)
            found |= {name: values, f"{name}_auc": auc_to_controls(part, controls, own, nearest)}
    return found


def auc_to_controls(some: Sequence[Line], controls: Sequence[Line], own: str, nearest: str) -> Measure:
    """AUC of images by similarity to their own training picture against controls by that to their nearest."""
    pairs = [(line[own], True, line["prompt"]) for line in some]
    pairs += [(line[nearest], False, line["prompt"]) for line in controls]
    kept = [pair for pair in pairs if not np.isnan(pair[0])]
    if len({label for _, label, _ in kept}) < 2:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan")}
    scores, labels, groups = zip(*kept, strict=True)
    return auc_measure(scores, labels, groups)


def spread_results(
    lines: Sequence[Line], controls: Sequence[Line], between: tuple[np.ndarray, np.ndarray]
) -> list[Result]:
    """How near the nearest training picture lies, of what is no copy and of each run.

    Args:
        between: of training pictures to their nearest other, (pictures,): similarity, and cosine.
    """
    sets = {"training pictures, to the nearest other": between}
    sets["controls"] = column(controls, "nearest"), column(controls, "cosine")
    for run in dict.fromkeys(line["run"] for line in lines):
        some = [line for line in lines if line["run"] == run]
        sets[run] = column(some, "nearest"), column(some, "cosine")
    return [{"of": name, **spread(*values)} for name, values in sets.items() if len(values[0])]


def spread(values: np.ndarray, cosines: np.ndarray) -> Result:
    """Count, quantiles and the share above the field's cut."""
    quantiles = dict(zip(("lowest", "median", "rare", "highest"), np.quantile(values, [0, 0.5, RARE, 1]), strict=True))
    above = float((cosines > COPY_SIMILARITY).mean())
    return {"count": len(values), **{k: float(v) for k, v in quantiles.items()}, "above_cut": above}
