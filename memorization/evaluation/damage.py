"""What a mitigation does to prompts that did not need it: runs on ordinary prompts beside plain generation.

Every image is compared with the plain one of the same prompt and seed. A method that decides by itself whether to act
leaves most of them alone; one that always acts does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from memorization.errors import InputError
from memorization.evaluation.mitigation import summarize_measures
from memorization.evaluation.plain_colours import without_plain_colours
from memorization.evaluation.statistics import USUAL, BootstrapSettings, Result, interval_text
from memorization.finished_runs import PLAIN, Run, by_strength, check_comparable, method_of, strength_of
from memorization.similarity.measure import Evaluators
from memorization.tables import Table

MEASURES = {
    "changed": "changed",
    "kept": "SSCD to the plain image",
    "clip": "CLIP",
    "clip_change": "CLIP less plain's",
}


@dataclass(frozen=True)
class Described:
    """Images of one prompt and what the evaluators say of them.

    Attributes:
        images: uint8 (images, height, width, 3).
        descriptors: unit copy descriptors, (images, dim); None without a copy descriptor.
        clip: CLIP similarities to the prompt, (images,); None without CLIP.
    """

    images: np.ndarray
    descriptors: torch.Tensor | None
    clip: list[float] | None

    def beside(self, plain: "Described") -> dict[str, list[float]]:
        """Every measure of `MEASURES` that there is, one number per image, against the plain images."""
        found = {"changed": [float((a != b).any()) for a, b in zip(self.images, plain.images, strict=True)]}
        if self.descriptors is not None and plain.descriptors is not None:
            found["kept"] = (self.descriptors * plain.descriptors).sum(1).tolist()
        if self.clip is not None and plain.clip is not None:
            found["clip"] = self.clip
            found["clip_change"] = [a - b for a, b in zip(self.clip, plain.clip, strict=True)]
        return found


def evaluate_damage(runs: Sequence[Run], evaluators: Evaluators, bootstrap: BootstrapSettings = USUAL) -> list[Result]:
    """One result per run, with intervals by resampling prompts.

    Args:
        runs: mitigation runs of the same ordinary prompts and seeds, plain generation among them.
        evaluators: CLIP and copy descriptor are used where they are given.

    Raises:
        InputError: if the runs cannot be compared, or none of them is plain.
    """
    check_comparable(runs)
    runs = without_plain_colours(by_strength(runs))
    if method_of(runs[0]) != PLAIN:
        raise InputError("none of the runs is plain generation, which the others are compared with: run it too")
    plain = describe(runs[0], evaluators)
    results = []
    for run in runs:
        described = plain if run is runs[0] else describe(run, evaluators)
        measured = [own.beside(one) for own, one in zip(described, plain, strict=True)]
        head = {"run": run.key, "method": method_of(run), "strength": strength_of(run), "prompts": len(measured)}
        head["images"] = len(measured[0]["changed"])
        results.append(head | summarize_measures(measured, MEASURES, bootstrap))
    return results


def describe(run: Run, evaluators: Evaluators) -> list[Described]:
    """Images of every prompt, and what the evaluators say of them."""
    found = []
    with tqdm(run.rows, desc=run.key, unit="prompt") as bar:
        for row in bar:
            images = run.images(row)
            descriptors = None if evaluators.descriptor is None else evaluators.descriptor(list(images))
            clip = None if evaluators.clip is None else evaluators.clip(images, row["prompt"])
            found.append(Described(images, descriptors, clip))
    return found


def damage_tables(results: Sequence[Result]) -> list[Table]:
    """One `Table` of all runs."""
    names = [n for n in MEASURES if n in results[0]]
    rows = [[r["method"], f"{r['strength']:g}", *(interval_text(r[n]) for n in names)] for r in results]
    caption = f"Ordinary prompts ({results[0]['prompts']} prompts, {results[0]['images']} images each)"
    note = "Changed: share of images that are not the plain ones to the last bit."
    return [Table(caption, ["method", "strength", *(MEASURES[n] for n in names)], rows, note)]
