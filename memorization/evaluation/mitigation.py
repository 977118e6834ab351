"""Mitigation evaluated from images: does it remove the copy, and is the image still what was asked for?

Privacy is similarity to the training images (SSCD, LS, S, pixels), utility similarity to the prompt (CLIP), quality
likeness to ordinary generations (see `evaluation.quality`). All runs must be of the same prompts and seeds, so that
every comparison is of the same noise under two methods, and intervals come from resampling prompts for all runs
together.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from memorization.data.links import lacks_pictures
from memorization.data.pictures import check_pictures
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import InputError, warn
from memorization.evaluation.plain_colours import without_plain_colours
from memorization.evaluation.quality import (
    PLAIN_NUMBERS,
    Quality,
    add_quality,
    find_reference,
    measure_quality,
    quality_table,
)
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import (
    USUAL,
    BootstrapSettings,
    Measure,
    Result,
    interval_text,
    mean_interval,
)
from memorization.evaluation.tradeoff import Measured, PromptMeasures, add_areas, tradeoff_tables
from memorization.finished_runs import Run, by_strength, check_comparable, method_of, strength_of
from memorization.similarity.measure import MEASURES, Evaluators, measure_run
from memorization.tables import Table

ALL = "all"  # prompts of every kind together
SHARES = ("copied", "local_copied", "changed", "outside")  # measures that are 0 or 1 of every image


def load_references(run: Run, dataset: str | None = None) -> dict[int, PromptRecord]:
    """Records with training images by prompt index, for the rows of a run; prompts without are left out.

    Args:
        dataset: that has them; the run's own by default.

    Raises:
        InputError: if no prompt has training images, or one is another in the data set.
    """
    training = load_training(run, dataset)
    found = {row["index"]: training[row["index"]] for row in run.rows if row["index"] in training}
    if not found:
        name, first = dataset or run.settings["dataset"], run.rows[0]["index"]
        told = f"has no training images of prompt {first}, nor of another; give a *_groundtruth"
        some = load_prompts(name, 0, 1, run.settings.get("prompt_key") if dataset is None else None)
        raise InputError(lacks_pictures(name, some, told))
    return found


def load_training(run: Run, dataset: str | None = None) -> dict[int, PromptRecord]:
    """All records of a run's data set that have training images by prompt index, whether the run has their prompts.

    Args:
        dataset: that has them; the run's own by default.

    Raises:
        InputError: if a prompt is another in the data set.
    """
    name = dataset or run.settings["dataset"]
    prompt_key = run.settings.get("prompt_key") if dataset is None else None
    clean_prompts = run.settings.get("clean_prompts", True)
    records = {r.index: r for r in load_prompts(name, prompt_key=prompt_key, clean_prompts=clean_prompts)}
    for row in run.rows:
        record = records.get(row["index"])
        if record is not None and record.prompt != row["prompt"]:
            raise InputError(f"{name} has another prompt at index {row['index']} than {run.path}; give its --dataset")
    return {index: record for index, record in records.items() if record.reference_images}


def measure_runs(runs: Sequence[Run], evaluators: Evaluators, dataset: str | None = None) -> dict[str, list[Any]]:
    """Measures of every prompt by run key, for runs of the same prompts; see `measure_run`."""
    records = load_references(runs[0], dataset)
    rows = {run.key: [row for row in run.rows if row["index"] in records] for run in runs}
    lacking = len(runs[0].rows) - len(rows[runs[0].key])
    if lacking:
        warn(f"{lacking} of {len(runs[0].rows)} prompts of {runs[0].path} have no training image and are left out")
    check_pictures(records.values())
    return {run.key: measure_run(run, rows[run.key], evaluators, records) for run in runs}


def evaluate_mitigation(
    runs: Sequence[Run], evaluators: Evaluators, dataset: str | None = None, bootstrap: BootstrapSettings = USUAL
) -> tuple[list[Result], dict[str, list[Any]], Quality | None]:
    """Measure every run and summarise it.

    Returns:
        (one result per run and kind of prompt, per-prompt measures of `measure_run` by run key, and what the images
        look like beside ordinary ones, None where there are none).

    Raises:
        InputError: if runs cannot be compared, a prompt has no training images, or all have an image of one colour.
    """
    check_comparable(runs)
    runs = without_plain_colours(by_strength(runs))
    reference = find_reference(runs, evaluators.quality_reference)
    measured = measure_runs(runs, evaluators, dataset)
    quality = None if reference is None else measure_quality(runs, measured, evaluators, reference)
    results = [row for run in runs for row in summarize(run, measured[run.key], bootstrap)]
    if quality is not None:
        add_quality(results, measured, quality, bootstrap)
    add_areas(results, measured, bootstrap)
    return results, measured, quality


def summarize(run: Run, measured: Sequence[PromptMeasures], bootstrap: BootstrapSettings = USUAL) -> list[Result]:
    """Means with intervals of one run, for every kind of prompt and all together."""
    kinds = list(dict.fromkeys(m["kind"] for m in measured))
    groups = {kind: [m for m in measured if m["kind"] == kind] for kind in kinds} if len(kinds) > 1 else {}
    evals = [row["unet_evals_per_image"] + row.get("mask_evals_per_image", 0) for row in run.rows]
    head = {"run": run.key, "method": method_of(run), "strength": strength_of(run), "evals": float(np.mean(evals))}
    results = []
    for kind, some in {**groups, ALL: measured}.items():
        counts = {"kind": kind, "prompts": len(some), "images": len(some[0]["pixel"])}
        results.append(head | counts | summarize_measures(some, [*MEASURES, *PLAIN_NUMBERS], bootstrap))
    return results


def summarize_measures(
    measured: Sequence[PromptMeasures], names: Iterable[str], bootstrap: BootstrapSettings = USUAL
) -> dict[str, Measure]:
    """Mean and interval over prompts of each named measure that is there; shares with what was counted."""
    found = {}
    for name in (n for n in names if n in measured[0]):
        values = [np.asarray(m[name], float) for m in measured]
        prompts = np.repeat(np.arange(len(values)), [len(v) for v in values])
        if name in SHARES:
            found[name] = share_measure(np.concatenate(values), prompts)
        else:
            found[name] = mean_interval([v.mean() for v in values], np.arange(len(values)), bootstrap)
    return found


def mitigation_tables(results: Sequence[Result], measured: Measured, quality: Quality | None = None) -> list[Table]:
    """For each kind of prompt every run, then their quality, then each against PE at equal utility."""
    tables = []
    for kind in dict.fromkeys(r["kind"] for r in results):
        rows = [r for r in results if r["kind"] == kind]
        tables += [kind_table(rows)] + ([] if quality is None else [quality_table(rows, quality)])
        tables += tradeoff_tables(results, measured, kind)
    return tables


def kind_table(results: Sequence[Result]) -> Table:
    """`Table` of every run on one kind of prompt."""
    names = [name for name in MEASURES if name in results[0]]
    rows = [
        [r["method"], f"{r['strength']:g}", *(interval_text(r[name]) for name in names), f"{r['evals']:.1f}"]
        for r in results
    ]
    headers = ["method", "strength", *(MEASURES[name] for name in names), "UNet evaluations per image"]
    first = results[0]
    return Table(f"{first['kind']} ({first['prompts']} prompts, {first['images']} images each)", headers, rows)
