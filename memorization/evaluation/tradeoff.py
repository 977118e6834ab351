"""Mitigations compared at equal utility: each run against what a reference method reaches at the same CLIP.

The reference is PE where there is a run of it, else the first method. Its curve runs through plain generation
and its strengths from weakest to strongest, interpolated linearly. Every other run is looked at where it really
is, not between its strengths: methods such as PRSS leave a wide gap between no mitigation and their weakest.
The area sums a method up over its strengths. Intervals resample prompts for all runs together, so that
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
    with_bootstrap_interval,
)
from memorization.finished_runs import PLAIN
from memorization.tables import Table

REFERENCE = "pe"
PRIVACY, UTILITY, QUALITY = "sscd", "clip", "cmmd"
# Share of resamples that must reach a CLIP: to ask it of the prompts at hand would choose those that flatter PE.
REACHED = 0.05
GRID = 200  # utilities that the area is summed over

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
    note = (
        f"Below 0: more private than {reference} at equal utility. A dash: in 95 % of resamples {reference} lacks it."
    )
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
    between = next((r["area_range"] for r in by_method.values() if r["area_range"]), None)
    note = "No CLIP is reached by two methods of as many strengths: no area is defined."
    if between is not None:
        note = (
            f"Mean SSCD, 0 where below, over CLIP from {between[0]:.3f} to {between[1]:.3f}, which all methods with an "
        )
        note += f"area span, by plain generation and as many strengths of each as {reference} has; lower is better. A "
        note += f"dash: fewer strengths, or none of {reference}'s CLIP."
    return Table(f"{kind}, all strengths of a method together", headers, cells, note)


def add_areas(results: Sequence[Result], measured: Measured, bootstrap: BootstrapSettings = USUAL) -> None:
    """Put what `tradeoff_areas` finds, which all strengths of a method share, into its results."""
    for kind in dict.fromkeys(r["kind"] for r in results):
        rows = [r for r in results if r["kind"] == kind]
        areas = tradeoff_areas(rows, measured, kind, bootstrap) if are_complete(rows) else {}
        for r in rows:
            r |= areas.get(r["method"], {})


def tradeoff_areas(
    rows: Sequence[Result], measured: Measured, kind: str, bootstrap: BootstrapSettings = USUAL
) -> dict[str, dict[str, Any]]:
    """Area under every method's curve of privacy over utility, and that less the reference's.

    All are looked at over the same utilities, which all of them span, and with as many strengths as the reference has,
    of more those that are spread evenly from the weakest to the strongest: neither a method that went further nor one
    that was tried at more strengths is favoured.

    Args:
        rows, measured: as of `against_reference`.

    Returns:
        {method: {area, area_difference, area_range}}, lower is better; NaN, and a range of None, for a method with
        fewer strengths or without a utility in common with the reference, and for all where only one is left. Empty
        without plain generation, or a second method.
    """
    methods = mitigating(rows)
    plain = [r["run"] for r in rows if r["method"] == PLAIN]
    if len(methods) < 2 or not plain:
        return {}
    means, reference = resampled_points(rows, measured, kind, bootstrap), reference_of(methods)
    runs = {m: [r["run"] for r in rows if r["method"] == m] for m in methods}
    count = len(runs[reference])
    curves = {
        m: np.stack([means[run] for run in (plain[0], *spread(names, count))], 1)
        for m, names in runs.items()
        if len(names) >= count
    }
    curves = {m: c for m, c in curves.items() if shared_range([c, curves[reference]])}
    between = shared_range(list(curves.values())) if len(curves) > 1 else None
    areas = {m: area_under(c, between) for m, c in curves.items()} if between else {}
    nothing = np.full(2, np.nan)
    prompts = len(prompt_means(measured[plain[0]], kind))
    return {
        m: {
            "area": first_with_interval(areas.get(m, nothing), prompts),
            "area_difference": first_with_interval(areas[m] - areas[reference] if m in areas else nothing, prompts),
            "area_range": list(between) if between and m in areas else None,
        }
        for m in methods
    }


def spread(runs: Sequence[str], count: int) -> list[str]:
    """So many of the runs at even distances, the last of them always."""
    return [runs[k] for k in np.linspace(len(runs) - 1, 0, count).round().astype(int)[::-1]]


def shared_range(curves: Sequence[np.ndarray]) -> tuple[float, float] | None:
    """The utilities that all curves (replicates, points, 2) span in the first replicate; None without any."""
    utilities = [curve[0, :, 1] for curve in curves]
    low, high = max(float(u.min()) for u in utilities), min(float(u.max()) for u in utilities)
    return (low, high) if low < high else None


def area_under(curve: np.ndarray, between: tuple[float, float]) -> np.ndarray:
    """Mean privacy over a range of utilities, interpolated; a similarity below 0 is no better than 0.

    Args:
        curve: (replicates, points, 2) of privacy and utility.
        between: the lowest and the highest utility.

    Returns:
        (replicates,); lower = the same utility with fewer copies.
    """
    clipped = np.stack([np.maximum(curve[:, :, 0], 0), curve[:, :, 1]], 2)
    utilities = between[0] + (between[1] - between[0]) * (np.arange(GRID) + 0.5) / GRID
    return np.mean([np.maximum(privacy_at(clipped, np.full(len(curve), u)), 0) for u in utilities], 0)


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
        intervals, NaN where the reference does not reach the CLIP in 95 % of resamples. Empty without another method.
    """
    methods = mitigating(rows)
    if len(methods) < 2:
        return None, {}
    reference, means = reference_of(methods), resampled_points(rows, measured, kind, bootstrap)
    curve = np.stack([means[r["run"]] for r in rows if r["method"] in (PLAIN, reference)], 1)
    prompts = len(prompt_means(measured[rows[0]["run"]], kind))
    compared = {}
    for r in rows:
        if r["method"] not in (PLAIN, reference):
            own = means[r["run"]]
            reached = (curve[:, :, 1].min(1) <= own[:, 1]) & (own[:, 1] <= curve[:, :, 1].max(1))
            expected = privacy_at(curve, own[:, 1]) if reached.mean() >= REACHED else np.full(len(own), np.nan)
            both = (expected, own[:, 0] - expected)
            compared[r["run"]] = first_with_interval(both[0], prompts), first_with_interval(both[1], prompts)
    return reference, compared


def prompt_means(rows: Sequence[PromptMeasures], kind: str) -> np.ndarray:
    """Mean SSCD and CLIP of every prompt of a kind, (prompts, 2)."""
    some = [m for m in rows if kind in ("all", m["kind"])]
    return np.array([[np.mean(m[PRIVACY]), np.mean(m[UTILITY])] for m in some])


def first_with_interval(values: np.ndarray, prompts: int) -> Measure:
    """The first value with the interval of the others, replicates over so many prompts."""
    return with_bootstrap_interval(values[0], values[1:], prompts)


def privacy_at(curve: np.ndarray, utility: np.ndarray) -> np.ndarray:
    """Privacy of a curve at a utility, (replicates,): interpolated, the lowest value where the curve is there twice.

    Beyond its ends it goes on as steeply as from end to end: a replicate whose curve ends a little earlier counts
    too, as without it the others would be a choice of those that suit.

    Args:
        curve: (replicates, strengths, 2) of privacy and utility.
        utility: (replicates,).
    """
    order = np.arange(len(curve))
    low, high = (curve[order, pick(curve[:, :, 1], 1)] for pick in (np.argmin, np.argmax))
    slope = (high[:, 0] - low[:, 0]) / np.maximum(high[:, 1] - low[:, 1], 1e-12)
    found = np.where(utility < low[:, 1], low[:, 0] + slope * (utility - low[:, 1]), np.nan)
    found = np.where(utility > high[:, 1], high[:, 0] + slope * (utility - high[:, 1]), found)
    for a, b in zip(curve.transpose(1, 0, 2)[:-1], curve.transpose(1, 0, 2)[1:], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (utility - a[:, 1]) / (b[:, 1] - a[:, 1])
            between = np.where((share >= 0) & (share <= 1), a[:, 0] + share * (b[:, 0] - a[:, 0]), np.nan)
        found = np.fmin(found, between)
    return found
