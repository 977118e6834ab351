"""Mitigations compared at equal utility: each run against what a reference method reaches at the same CLIP.

The reference is PE where there is a run of it, else the first method. Its curve runs through plain generation
and its strengths from weakest to strongest, interpolated linearly. Every other run is looked at where it really
is, not between its strengths: methods such as PRSS leave a wide gap between no mitigation and their weakest.
The area sums a method up over all its strengths. Intervals resample prompts for all runs together, so that
differences are of the same prompts.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memorization.evaluation.statistics import (
    USUAL,
    BootstrapSettings,
    Measure,
    Result,
    interval_text,
    resampled_means,
    with_interval,
)
from memorization.finished_runs import PLAIN
from memorization.tables import Table

REFERENCE = "pe"
PRIVACY, UTILITY, QUALITY = "sscd", "clip", "cmmd"
GRID = 200  # utilities that the area is summed over
LEAST_UTILITY = 0.5  # of plain generation's, where they begin

PromptMeasures = Mapping[str, Any]  # one prompt of `similarity.measure.measure_run`: kind, and a list per measure
Measured = Mapping[str, Sequence[PromptMeasures]]  # those of every run by its key, prompts in the same order


def tradeoff_tables(results: Sequence[Result], measured: Measured, kind: str) -> list[Table]:
    """Every run's SSCD beside the reference method's at the same CLIP; none without both measures.

    Args:
        results: of `mitigation.evaluate_mitigation`, of which those of one kind are taken.
        measured: per-prompt measures by run.
    """
    rows = [r for r in results if r["kind"] == kind]
    if not are_complete(rows):
        return []
    reference, compared = against_reference(rows, measured, kind)
    if reference is None or not compared:
        return []
    cells = []
    for r in rows:
        if r["run"] in compared:
            numbers = (r[UTILITY], r[PRIVACY], *compared[r["run"]])
            cells.append([named(r), f"{r['strength']:g}", *map(interval_text, numbers), *quality_cells(r)])
    headers = ["method", "strength", "CLIP", "SSCD", f"SSCD of {reference} at that CLIP", "difference"]
    headers += ["CMMD"] if QUALITY in rows[0] else []
    note = f"Below 0: more private than {reference} at equal utility. A dash: {reference} has no such CLIP."
    tables = [Table(f"{kind}, against {reference} at equal utility", headers, cells, note)]
    return tables + ([area_table(rows, kind, reference)] if "area" in rows[-1] else [])


def named(result: Result) -> str:
    """A run's method, and whether its images are ruined: what SSCD and CLIP do not see."""
    return f"{result['method']} (ruined)" if result.get("ruined") else result["method"]


def quality_cells(result: Result) -> list[str]:
    return [interval_text(result[QUALITY])] if QUALITY in result else []


def are_complete(rows: Sequence[Result]) -> bool:
    """Whether every run has both measures."""
    return all(name in r for r in rows for name in (PRIVACY, UTILITY))


def area_table(rows: Sequence[Result], kind: str, reference: str) -> Table:
    """`Table` of `tradeoff_areas`, one line per method."""
    by_method = {r["method"]: r for r in rows if "area" in r}
    ruined = {r["method"] for r in rows if r.get("ruined")}
    told = {m: f"{m} (with ruined strengths)" if m in ruined else m for m in by_method}
    cells = [[told[m], interval_text(r["area"]), interval_text(r["area_difference"])] for m, r in by_method.items()]
    headers = ["method", "area under the trade-off curve", f"less that of {reference}"]
    note = (
        "The area is the lowest SSCD that any strength of the method, or none, has at a CLIP or more, averaged over "
        f"CLIP from {LEAST_UTILITY:.0%} to all of what plain generation has; lower is better."
    )
    return Table(f"{kind}, all strengths of a method together", headers, cells, note)


def add_areas(results: Sequence[Result], measured: Measured, bootstrap: BootstrapSettings = USUAL) -> None:
    """Put `area` and `area_difference` of `tradeoff_areas`, which all strengths of a method share, into its results."""
    for kind in dict.fromkeys(r["kind"] for r in results):
        rows = [r for r in results if r["kind"] == kind]
        areas = tradeoff_areas(rows, measured, kind, bootstrap) if are_complete(rows) else {}
        for r in rows:
            if r["method"] in areas:
                r["area"], r["area_difference"] = areas[r["method"]]


def tradeoff_areas(
    rows: Sequence[Result], measured: Measured, kind: str, bootstrap: BootstrapSettings = USUAL
) -> dict[str, tuple[Measure, Measure]]:
    """Area under every method's curve of privacy over utility, and that less the reference's.

    Args:
        rows, measured: as of `against_reference`.

    Returns:
        {method: (area, difference)}, lower is better; empty without plain generation, or a second method.
    """
    methods = mitigating(rows)
    plain = [r["run"] for r in rows if r["method"] == PLAIN]
    if len(methods) < 2 or not plain:
        return {}
    means = resampled_points(rows, measured, kind, bootstrap)
    areas = {}
    for method in methods:
        runs = [*plain, *(r["run"] for r in rows if r["method"] == method)]
        areas[method] = area_under(np.stack([means[run] for run in runs], 1), means[plain[0]][:, 1])
    of_reference = areas[reference_of(methods)]
    return {m: (first_with_interval(a), first_with_interval(a - of_reference)) for m, a in areas.items()}


def area_under(curve: np.ndarray, plain_utility: np.ndarray) -> np.ndarray:
    """Mean of the lowest privacy at a utility or more, over utilities from a share of plain generation's to all of it.

    Args:
        curve: (replicates, points, 2) of privacy and utility, plain generation among the points.
        plain_utility: (replicates,).

    Returns:
        (replicates,); lower = the same utility with fewer copies.
    """
    shares = LEAST_UTILITY + (1 - LEAST_UTILITY) * (np.arange(GRID) + 0.5) / GRID
    reached = curve[:, :, None, 1] >= shares * plain_utility[:, None, None]
    return np.where(reached, curve[:, :, None, 0], np.inf).min(1).mean(1)


def mitigating(rows: Sequence[Result]) -> list[str]:
    """Methods of the runs but plain generation, in their order."""
    return list(dict.fromkeys(r["method"] for r in rows if r["method"] != PLAIN))


def reference_of(methods: Sequence[str]) -> str:
    return REFERENCE if REFERENCE in methods else methods[0]


def resampled_points(
    rows: Sequence[Result], measured: Measured, kind: str, bootstrap: BootstrapSettings = USUAL
) -> dict[str, np.ndarray]:
    """Mean SSCD and CLIP of every run, (1 + replicates, 2), the first of the prompts as they are."""
    points = {r["run"]: prompt_means(measured[r["run"]], kind) for r in rows}
    ones = np.ones((1, len(next(iter(points.values())))))
    weights = np.r_[ones, bootstrap.weights(np.arange(ones.shape[1]))]
    return {run: resampled_means(values, weights) for run, values in points.items()}


def against_reference(
    rows: Sequence[Result], measured: Measured, kind: str, bootstrap: BootstrapSettings = USUAL
) -> tuple[str | None, dict[str, tuple[Measure, Measure]]]:
    """SSCD of the reference method at every other run's CLIP.

    Args:
        rows: results of one kind, a method's runs from its weakest to its strongest.
        measured: per-prompt measures by run.

    Returns:
        (reference method, {run: (reference's SSCD at the run's CLIP, the run's SSCD less that)}), measures with
        intervals, NaN where the reference does not reach the CLIP. Empty without another method.
    """
    methods = mitigating(rows)
    if len(methods) < 2:
        return None, {}
    reference, means = reference_of(methods), resampled_points(rows, measured, kind, bootstrap)
    curve = np.stack([means[r["run"]] for r in rows if r["method"] in (PLAIN, reference)], 1)
    compared = {}
    for r in rows:
        if r["method"] not in (PLAIN, reference):
            own = means[r["run"]]
            expected = privacy_at(curve, own[:, 1])
            compared[r["run"]] = first_with_interval(expected), first_with_interval(own[:, 0] - expected)
    return reference, compared


def prompt_means(rows: Sequence[PromptMeasures], kind: str) -> np.ndarray:
    """Mean SSCD and CLIP of every prompt of a kind, (prompts, 2)."""
    some = [m for m in rows if kind in ("all", m["kind"])]
    return np.array([[np.mean(m[PRIVACY]), np.mean(m[UTILITY])] for m in some])


def first_with_interval(values: np.ndarray) -> Measure:
    """The first value with the interval of the others."""
    return with_interval(values[0], values[1:] if np.isfinite(values[0]) else [])


def privacy_at(curve: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """Privacy of a curve at a utility, (replicates,); the lowest value where the curve is there twice.

    Args:
        curve: (replicates, strengths, 2) of privacy and utility.
        utility: (replicates,).
    """
    found = np.full(len(curve), np.nan)
    for a, b in zip(curve.transpose(1, 0, 2)[:-1], curve.transpose(1, 0, 2)[1:], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (utility - a[:, 1]) / (b[:, 1] - a[:, 1])
            between = np.where((share >= 0) & (share <= 1), a[:, 0] + share * (b[:, 0] - a[:, 0]), np.nan)
        found = np.fmin(found, between)
    return found
