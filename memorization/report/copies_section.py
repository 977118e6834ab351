"""The section on copies: what eval_mem.py copies writes."""

import json
from collections.abc import Sequence

from memorization.evaluation.copies import Copies, CopySettings, evaluate_copies
from memorization.evaluation.copy_tables import copy_tables
from memorization.evaluation.statistics import INTERVALS, USUAL, BootstrapSettings
from memorization.finished_runs import Run
from memorization.report.section import Section
from memorization.report.sections import made_from
from memorization.similarity.descriptors import CopyDescriptor
from memorization.tables import plain


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
    return section_of_copies(found, runs, controls, descriptor)


def section_of_copies(
    found: Copies, runs: Sequence[Run], controls: Sequence[Run], descriptor: CopyDescriptor | None
) -> Section:
    """The section of what was found already, by the same runs."""
    told = "" if descriptor is None else f"SSCD: {descriptor.description}; the maximum over training images"
    if found.settings.background is not None:
        told += f"; less the mean over the nearest of {found.settings.background}"
    return Section(
        topic="copies",
        title="Copies",
        text=f"{INTERVALS}. {told}.",
        tables=copy_tables(found),
        results={"copies": found.results, "nearest": found.spread},
        notes=[INTERVALS, told, made_from(runs), f"controls: {made_from(controls)}"],
        files={"per_image.jsonl": "".join(json.dumps(plain(line)) + "\n" for line in found.lines)},
    )
