"""What detection tells apart: rows by class, and the items of a score that are ranked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memorization.data.prompts import clean_prompt
from memorization.errors import InputError
from memorization.finished_runs import Run
from memorization.scores import image_scores

Row = Mapping[str, Any]
Pair = tuple[Run, Row]

ALL_KINDS = "all memorized"


@dataclass(frozen=True)
class ClassPair:
    """What is told apart: the rows of one kind of memorized prompts, and those of one set of other prompts."""

    kind: str
    negative_set: str
    memorized: list[Pair]
    others: list[Pair]


@dataclass(frozen=True)
class Classes:
    """Rows by class.

    Attributes:
        kinds: rows of memorized prompts by kind; those of all kinds last, where there are several.
        sets: rows of other prompts by the name of their prompt set.
    """

    kinds: dict[str, list[Pair]]
    sets: dict[str, list[Pair]]

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
    prompts: np.ndarray  # what is resampled; the same prompt at another seed is the same prompt
    runs: np.ndarray  # gen_seed of the run it came from

    def count_prompts(self, memorized: bool) -> int:
        return len(set(self.prompts[self.labels == memorized].tolist()))

    def of_runs(self) -> list[np.ndarray]:
        """For every seed with memorized and other items, which items are its: bool arrays (items,)."""
        masks = [self.runs == seed for seed in sorted(set(self.runs.tolist()))]
        return [m for m in masks if self.labels[m].any() and not self.labels[m].all()]


def gather(pair: ClassPair, view: View) -> Items:
    """Items of one score."""
    scores: list[float] = []
    labels, prompts, runs = [], [], []
    for memorized, rows in ((True, pair.memorized), (False, pair.others)):
        for run, row in rows:
            values = image_scores(row, view.key, view.horizon, view.num_images)
            values = values.mean(keepdims=True) if view.level == "prompt" else values
            scores += list(values)
            labels += [memorized] * len(values)
            prompts += [f"{memorized} {row['prompt']}"] * len(values)
            runs += [run.settings.get("gen_seed")] * len(values)
    return Items(np.array(scores), np.array(labels), np.array(prompts), np.array(runs))


def classes_of(mem_runs: Sequence[Run], nonmem_runs: Sequence[Run]) -> Classes:
    """Rows by class.

    A row's own `is_memorized` must agree with the side it was given on; given on one side alone, it
    decides. Kinds are the words of the prompt set: verbatim and template in the bundled one.

    Raises:
        InputError: if either class is empty, or a label contradicts its side.
    """
    mem = [(run, row) for run in mem_runs for row in run.rows]
    if nonmem_runs:
        others = [(run, row) for run in nonmem_runs for row in run.rows]
        refuse_contradictions(mem, False, "--mem")
        refuse_contradictions(others, True, "--nonmem")
    else:
        others = [pair for pair in mem if pair[1].get("is_memorized") is False]
        mem = [pair for pair in mem if pair[1].get("is_memorized") is True]
        if not mem or not others:
            raise InputError("the rows' is_memorized does not give both classes: name the others by --nonmem")
    kinds: dict[str, list[Pair]] = {}
    sets: dict[str, list[Pair]] = {}
    for run, row in mem:
        kinds.setdefault(row.get("kind") or "memorized", []).append((run, row))
    for run, row in others:
        sets.setdefault(run.dataset, []).append((run, row))
    return Classes({**kinds, ALL_KINDS: mem} if len(kinds) > 1 else kinds, sets)


def refuse_contradictions(pairs: Iterable[Pair], is_memorized: bool, option: str) -> None:
    for run, row in pairs:
        if row.get("is_memorized") is is_memorized:
            raise InputError(f"{run.path} is given by {option}, but its prompt {row['index']} is labelled otherwise")


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
