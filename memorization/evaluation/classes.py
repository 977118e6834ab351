"""What detection tells apart: rows by class, and the items of a score that are ranked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memorization.data.prompts import clean_prompt
from memorization.errors import InputError
from memorization.evaluation.score_columns import Row, fingerprints, score_columns
from memorization.finished_runs import Run

ALL_KINDS = "all memorized"


@dataclass(frozen=True)
class Part:
    """Rows of one run that are of one class."""

    run: Run
    rows: Sequence[Row]


@dataclass(frozen=True)
class ClassPair:
    """What is told apart: the rows of one kind of memorized prompts, and those of one set of other prompts."""

    kind: str
    negative_set: str
    memorized: list[Part]
    others: list[Part]


@dataclass(frozen=True)
class Classes:
    """Rows by class.

    Attributes:
        kinds: rows of memorized prompts by kind; those of all kinds last, where there are several.
        sets: rows of other prompts by the name of their prompt set.
    """

    kinds: dict[str, list[Part]]
    sets: dict[str, list[Part]]

    def pairs(self) -> list[ClassPair]:
        """Every kind against every set."""
        return [ClassPair(kind, s, mem, others) for kind, mem in self.kinds.items() for s, others in self.sets.items()]


@dataclass(frozen=True)
class View:
    """One way to look at a score.

    Attributes:
        key: of the row.
        horizon: T, how many first steps are averaged; None for all.
        level: "image", or "prompt" for the mean over a row's images.
        num_images: the first so many images of each row; None for all.
    """

    key: str
    horizon: int | None
    level: str = "image"
    num_images: int | None = None


@dataclass(frozen=True)
class Items:
    """What is ranked: images, or prompts by the mean of their images. Arrays have one entry per item."""

    scores: np.ndarray
    labels: np.ndarray  # True for memorized
    prompts: np.ndarray  # a number for each; the same prompt at another seed is the same prompt, in the other class not
    runs: np.ndarray  # gen_seed of the run it came from

    def count_prompts(self, memorized: bool) -> int:
        return len(np.unique(self.prompts[self.labels == memorized]))

    def of_runs(self) -> list[np.ndarray]:
        """For every seed with memorized and other items, which items are its: bool arrays (items,)."""
        masks = [self.runs == seed for seed in sorted(set(self.runs.tolist()))]
        return [m for m in masks if self.labels[m].any() and not self.labels[m].all()]


def gather(pair: ClassPair, view: View) -> Items:
    """Items of one score."""
    parts = [*pair.memorized, *pair.others]
    columns = [score_columns(part.rows, view.key, view.horizon, view.num_images) for part in parts]
    scores = [c.means[:, None] if view.level == "prompt" else c.scores for c in columns]
    rows = [len(s) for s in scores]
    images = np.repeat([s.shape[1] for s in scores], rows)
    labels = np.repeat([True] * len(pair.memorized) + [False] * len(pair.others), rows)
    words = np.unique(np.concatenate([fingerprints(c.prompts) for c in columns]), return_inverse=True)[1]
    seeds = np.repeat([part.run.settings.get("gen_seed") for part in parts], rows)
    per_row = (labels, 2 * words + labels, seeds)
    return Items(np.concatenate([s.ravel() for s in scores]), *(np.repeat(values, images) for values in per_row))


def classes_of(mem_runs: Sequence[Run], nonmem_runs: Sequence[Run]) -> Classes:
    """Rows by class.

    A row's own `is_memorized` must agree with the side it was given on; given on one side alone, it
    decides. Kinds are the words of the prompt set: verbatim and template in the bundled one.

    Raises:
        InputError: if either class is empty, or a label contradicts its side.
    """
    mem, others = ([Part(run, run.rows) for run in runs] for runs in (mem_runs, nonmem_runs))
    if nonmem_runs:
        refuse_contradictions(mem, False, "--mem")
        refuse_contradictions(others, True, "--nonmem")
    else:
        labelled = [(run, rows_by(run.rows, lambda row: row.get("is_memorized"))) for run in mem_runs]
        mem, others = ([Part(run, found[side]) for run, found in labelled if side in found] for side in (True, False))
        if not mem or not others:
            raise InputError("the rows' is_memorized does not give both classes: name the others by --nonmem")
    kinds: dict[str, list[Part]] = {}
    sets: dict[str, list[Part]] = {}
    for part in mem:
        for kind, rows in rows_by(part.rows, lambda row: row.get("kind") or "memorized").items():
            kinds.setdefault(kind, []).append(Part(part.run, rows))
    for part in others:
        sets.setdefault(part.run.dataset, []).append(part)
    return Classes({**kinds, ALL_KINDS: mem} if len(kinds) > 1 else kinds, sets)


def rows_by(rows: Sequence[Row], label_of: Callable[[Row], Any]) -> dict[Any, Sequence[Row]]:
    """Rows by their labels, in the order of the first of each; of one label all, as they are, which may be columns."""
    labels = [label_of(row) for row in rows]
    names = dict.fromkeys(labels)
    if len(names) == 1:
        return dict.fromkeys(names, rows)
    return {name: [row for row, label in zip(rows, labels, strict=True) if label == name] for name in names}


def refuse_contradictions(parts: Iterable[Part], is_memorized: bool, option: str) -> None:
    for part in parts:
        wrong = next((row for row in part.rows if row.get("is_memorized") is is_memorized), None)
        if wrong is not None:
            told = f"{part.run.path} is given by {option}, but its prompt {wrong['index']} is labelled otherwise"
            raise InputError(told)


def relabel(run: Run, kinds: Mapping[str, str], path: Path) -> Run:
    """The run with kinds out of the table at `path`, by cleaned caption; prompts that it does not have keep their own.

    Raises:
        InputError: if it has none of the run's prompts.
    """
    captions = [clean_prompt(row["prompt"]) for row in run.rows]
    if not kinds.keys() & set(captions):
        raise InputError(f"{path} has none of the prompts in {run.path}; give the labels of its prompt set")
    rows = [{**row, "kind": kinds.get(c, row.get("kind"))} for c, row in zip(captions, run.rows, strict=True)]
    return replace(run, rows=tuple(rows))
