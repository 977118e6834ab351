"""The section on copies: what eval_mem.py copies writes."""

import json
from collections.abc import Mapping, Sequence
from functools import partial

from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.evaluation.copies import Copies, CopySettings, evaluate_copies
from memorization.evaluation.copy_tables import copy_tables
from memorization.evaluation.mitigation import load_references, load_training
from memorization.evaluation.statistics import INTERVALS, USUAL, BootstrapSettings
from memorization.finished_runs import Run
from memorization.report.copy_figures import nearest_figure, nearest_pairs
from memorization.report.section import Figure, Section
from memorization.report.sections import made_from
from memorization.similarity.descriptors import CopyDescriptor
from memorization.tables import plain

PAIRS = "The images that are nearest to a training picture, one of each prompt; below, the training picture."


def has_training(run: Run, dataset: str | None = None) -> bool:
    """Whether a run has prompts whose training pictures are known."""
    try:
        return bool(load_references(run, dataset))
    except InputError:
        return False


def copies_section(
    runs: Sequence[Run],
    controls: Sequence[Run],
    descriptor: CopyDescriptor | None,
    settings: CopySettings | None = None,
    dataset: str | None = None,
    bootstrap: BootstrapSettings = USUAL,
) -> Section:
    """Which images are copies, by rank and against what is no copy; see `evaluate_copies`."""
    found = evaluate_copies(runs, controls, descriptor, settings, dataset, bootstrap)
    return section_of_copies(found, runs, controls, descriptor, load_training(runs[0], dataset))


def section_of_copies(
    found: Copies,
    runs: Sequence[Run],
    controls: Sequence[Run],
    descriptor: CopyDescriptor | None,
    records: Mapping[int, PromptRecord],
) -> Section:
    """The section of what was found already, by the same runs; `records` have the training pictures."""
    told = "" if descriptor is None else f"SSCD: {descriptor.description}; the maximum over training images"
    if found.settings.background is not None:
        told += f"; less the mean over the nearest of {found.settings.background}"
    return Section(
        topic="copies",
        title="Copies",
        text=f"{INTERVALS}. {told}.",
        tables=copy_tables(found),
        figures=[Figure("pairs", partial(nearest_figure, nearest_pairs(found.lines), runs, records), PAIRS)],
        results={"copies": found.results, "nearest": found.spread},
        notes=[INTERVALS, told, made_from(runs), f"controls: {made_from(controls)}"],
        files={"per_image.jsonl": "".join(json.dumps(plain(line)) + "\n" for line in found.lines)},
    )
