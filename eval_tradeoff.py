"""Methods compared where they are equally useful, or equally private, along their curves of strengths.

Plain generation is strength 0 of every method. Between strengths both measures are interpolated linearly.
Intervals resample prompts for all runs together, so that differences are of the same prompts.
"""

import numpy as np

from eval_utils import bootstrap_weights, interval, interval_text, resampled_means
from run_utils import Table
from similarity import COPY_SIMILARITY

PLAIN, FIRST = "none", "pe"
NAMES = {"sscd": "SSCD", "clip": "CLIP"}
LOWER_IS_BETTER = {"sscd"}


def tradeoff_tables(results, measured, kind):
    """SSCD of every method at equal CLIP, and CLIP at the SSCD that counts as a copy; none without both."""
    if any(name not in r for r in results for name in NAMES):
        return []
    tables = []
    for measure, held, level in (("sscd", "clip", None), ("clip", "sscd", COPY_SIMILARITY)):
        level, rows = at_equal(results, measured, kind, measure, held, level)
        if len(rows) > 1:
            headers = ["method", f"{NAMES[measure]} at {NAMES[held]} {level:.3f}", f"difference to {next(iter(rows))}"]
            cells = [[m, interval_text(value), interval_text(difference)] for m, (value, difference) in rows.items()]
            what = "utility" if held == "clip" else "privacy"
            missing = [m for m in method_curves(results, kind) if m not in rows]
            note = f"Does not reach it: {', '.join(missing)}." if missing else ""
            tables.append(Table(f"{kind}, at equal {what}", headers, cells, note))
    return tables


def at_equal(results, measured, kind="all", measure="sscd", held="clip", level=None, replicates=1000, seed=0):
    """One measure of every method where the other has the same value.

    Args:
        results: of `eval_mitigation.summarize`, a method's runs in the order of strength.
        measured: per-prompt dicts by run.
        level: value of `held`; None takes the middle of the range that all methods reach.

    Returns:
        (level, {method: (measure with interval, its difference to the first method)}) of the methods that
        reach the level.
    """
    curves = method_curves(results, kind)
    prompts = prompt_means(measured, kind, (measure, held))
    mean = {run: values.mean(0) for run, values in prompts.items()}
    if level is None:
        level = common_level([[mean[run][1] for run in runs] for runs in curves.values()])
    weights = bootstrap_weights(np.arange(len(next(iter(prompts.values())))), replicates, seed)
    resampled = {run: resampled_means(values, weights) for run, values in prompts.items()}
    best = np.fmin if measure in LOWER_IS_BETTER else np.fmax
    point = {m: value_at(np.stack([mean[r] for r in runs])[None], level, best)[0] for m, runs in curves.items()}
    spread = {m: value_at(np.stack([resampled[r] for r in runs], 1), level, best) for m, runs in curves.items()}
    kept = [m for m in curves if np.isfinite(point[m])]
    return level, {
        m: (
            {"value": point[m], **low_high(spread[m])},
            {"value": point[m] - point[kept[0]], **low_high(spread[m] - spread[kept[0]])},
        )
        for m in kept
    }


def low_high(replicates):
    low, high = interval(replicates)
    return {"low": low, "high": high}


def method_curves(results, kind):
    """Run keys of every method from its weakest to its strongest, plain generation first."""
    rows = [r for r in results if r["kind"] == kind]
    plain = [r["run"] for r in rows if r["method"] == PLAIN]
    curves = {}
    for r in rows:
        if r["method"] != PLAIN:
            curves.setdefault(r["method"], list(plain)).append(r["run"])
    return dict(sorted(curves.items(), key=lambda item: item[0] != FIRST))


def prompt_means(measured, kind, names):
    """Per-prompt means of the named measures by run, (prompts, names)."""
    chosen = {run: [m for m in rows if kind in ("all", m["kind"])] for run, rows in measured.items()}
    return {run: np.array([[np.mean(m[name]) for name in names] for m in rows]) for run, rows in chosen.items()}


def common_level(values):
    """Middle of the range that every method's curve covers, or NaN without one."""
    if not values:
        return float("nan")
    low, high = max(min(v) for v in values), min(max(v) for v in values)
    return (low + high) / 2 if low < high else float("nan")


def value_at(curve, level, best):
    """First measure where the second has a value, (replicates,); `best` decides where a curve is there twice.

    Args:
        curve: (replicates, strengths, 2).
        best: np.fmin or np.fmax.
    """
    found = np.full(len(curve), np.nan)
    for a, b in zip(curve.transpose(1, 0, 2)[:-1], curve.transpose(1, 0, 2)[1:], strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            share = (level - a[:, 1]) / (b[:, 1] - a[:, 1])
            between = np.where((share >= 0) & (share <= 1), a[:, 0] + share * (b[:, 0] - a[:, 0]), np.nan)
        found = best(found, between)
    return found
