"""Mitigation evaluated from images: does it remove the copy, and is the image still what was asked for?

Privacy is similarity to the training images (SSCD, LS, S, pixels), utility similarity to the prompt (CLIP).
All runs must be of the same prompts and seeds, so that every comparison is of the same noise under two
methods, and intervals come from resampling prompts for all runs together.
"""

import numpy as np

from memorization.data.prompts import load_prompts
from memorization.errors import InputError
from memorization.evaluation.statistics import interval_text, mean_interval
from memorization.evaluation.tradeoff import add_areas, tradeoff_tables
from memorization.finished_runs import by_strength, check_comparable, method_of, strength_of
from memorization.similarity.measure import MEASURES, measure_run
from memorization.tables import Table


def load_references(run, dataset=None):
    """Records with training images by prompt index, for every row of a run.

    Raises:
        InputError: if a prompt has no training images, or is another one in the data set.
    """
    name = dataset or run.settings["dataset"]
    records = {r.index: r for r in load_prompts(name, clean_prompts=run.settings.get("clean_prompts", True))}
    for row in run.rows:
        record = records.get(row["index"])
        if record is None or not record.reference_images:
            raise InputError(f"{name} has no training images of prompt {row['index']}; give --dataset *_groundtruth")
        if record.prompt != row["prompt"]:
            raise InputError(f"{name} has another prompt at index {row['index']} than {run.path}; give its --dataset")
    return records


def summarize(run, measured, replicates=1000, seed=0):
    """Means with intervals of one run, for every kind of prompt and all together."""
    kinds = dict.fromkeys(m["kind"] for m in measured)
    groups = {kind: [m for m in measured if m["kind"] == kind] for kind in kinds if len(kinds) > 1}
    evals = [row["unet_evals_per_image"] + row.get("mask_evals_per_image", 0) for row in run.rows]
    head = {"run": run.key, "method": method_of(run), "strength": strength_of(run), "evals": float(np.mean(evals))}
    results = []
    for kind, some in {**groups, "all": measured}.items():
        row = head | {"kind": kind, "prompts": len(some), "images": len(some[0]["pixel"])}
        results.append(row | summarize_measures(some, MEASURES, replicates, seed))
    return results


def summarize_measures(measured, names, replicates, seed):
    """Mean and interval of each named measure that is there: per prompt first, then over prompts, as resampled."""
    found = {}
    for name in (n for n in names if n in measured[0]):
        means = [float(np.mean(m[name])) for m in measured]
        found[name] = mean_interval(means, np.arange(len(means)), replicates, seed)
    return found


def measure_runs(runs, evaluators, dataset=None):
    """Per-prompt dicts of `measure_run` by run key, for runs of the same prompts."""
    records = load_references(runs[0], dataset)
    return {run.key: measure_run(run, run.rows, evaluators, records) for run in runs}


def evaluate_mitigation(runs, evaluators, dataset=None, replicates=1000, seed=0):
    """Measure every run and summarise it.

    Returns:
        (result dicts of `summarize`, per-prompt dicts of `measure_run` by run key).
    """
    check_comparable(runs)
    runs = by_strength(runs)
    measured = measure_runs(runs, evaluators, dataset)
    results = [row for run in runs for row in summarize(run, measured[run.key], replicates, seed)]
    add_areas(results, measured, replicates, seed)
    return results, measured


def mitigation_tables(results, measured):
    """`Table`s for each kind of prompt: every run, then each against PE at equal utility."""
    tables = []
    for kind in dict.fromkeys(r["kind"] for r in results):
        some = [r for r in results if r["kind"] == kind]
        names = [n for n in MEASURES if n in some[0]]
        rows = [
            [r["method"], f"{r['strength']:g}", *(interval_text(r[n]) for n in names), f"{r['evals']:.1f}"]
            for r in some
        ]
        headers = ["method", "strength", *(MEASURES[n] for n in names), "UNet evaluations per image"]
        tables.append(Table(f"{kind} ({some[0]['prompts']} prompts, {some[0]['images']} images each)", headers, rows))
        tables += tradeoff_tables(results, measured, kind)
    return tables
