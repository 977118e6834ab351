"""The detectors of a run: what `--scores` asks for, what the run can give of it, and what each costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from memorization.detectors.base import DETECTORS, Detector, in_order_of_cost
from memorization.errors import InputError
from memorization.finished_runs import MODEL_SETTINGS, Run, read_run
from memorization.identity import differing, pair_text
from memorization.needs import why_undefined
from memorization.registry import nearest
from memorization.runs.first_step import BY_CONSTRUCTION
from memorization.trace import Calibration

EVERYTHING = "all"


@dataclass(frozen=True)
class Abilities:
    """What a run has for detectors to look at.

    Attributes:
        num_inference_steps: of a whole generation.
        early_exit: steps after which it ends; None where it does not.
        num_images_per_prompt: how many images are compared with one another.
        has_mask: whether there is a bright-ending mask to weigh with: that of a finished image, or of an earlier pass.
        wants_masked: whether scores that weigh with it are asked for, as `--run_version ours` does.
        is_blind: whether the noise difference of the first step is 0 whatever the prompt.
        has_base: whether there is a model before tuning to compare with.
        undefined: what the model lacks, `needs.undefined_needs`.
    """

    num_inference_steps: int
    early_exit: int | None = None
    num_images_per_prompt: int = 1
    has_mask: bool = True
    wants_masked: bool = True
    is_blind: bool = False
    has_base: bool = False
    undefined: Mapping[str, str] = field(default_factory=dict)

    def lacking(self, detector: Detector) -> str | None:
        """Why a detector cannot be measured; None where it can."""
        last = self.early_exit
        if (why := why_undefined(detector.needs, self.undefined)) is not None:
            return why
        if detector.needs_mask:
            if not self.wants_masked:
                return "needs --run_version ours"
            return None if self.has_mask else "needs a bright-ending mask, which an early exit does not have"
        if detector.needs_base and not self.has_base:
            return "compares with the model before it was tuned: give it by --base_model_id"
        if detector.of_images and (self.num_images_per_prompt < 2 or last is not None):
            return "compares finished images of a prompt: use --num_images_per_prompt 2 or more and no --early_exit"
        if last is not None and detector.watch is None and (detector.steps is None or detector.steps > last):
            needs = "the last step" if detector.steps is None else f"{detector.steps} steps"
            return f"needs {needs}: no --early_exit {last}"
        if self.is_blind and detector.steps == 1 and detector.attention_steps is None and not detector.always:
            return f"measures the noise of the first step, which {BY_CONSTRUCTION}"
        if self.num_inference_steps < (detector.least_steps or 1):
            return f"needs {detector.least_steps} steps"
        return None


@dataclass(frozen=True)
class ChosenDetectors:
    """What a run measures.

    Attributes:
        detectors: those of every run and those that were chosen, in the order of their cost.
        chosen: names of the latter.
        calibration: what ordinary images are like, for those that compare with them.
    """

    detectors: Sequence[Detector]
    chosen: Sequence[str]
    calibration: Calibration | None = None

    @property
    def compare_images(self) -> bool:
        return any(d.of_images for d in self.detectors)

    def of_images(self, images: np.ndarray | None) -> dict[str, torch.Tensor]:
        """Scores that compare the finished images of one prompt, uint8 (images, height, width, 3)."""
        found: dict[str, torch.Tensor] = {}
        for detector in self.detectors:
            if detector.of_images and images is not None:
                found |= detector.function(torch.from_numpy(images))
        return found

    @property
    def costs(self) -> dict[str, list[int]]:
        """Evaluations and gradients per image beyond the generation, of those that were chosen."""
        return {name: list(DETECTORS[name].cost) for name in self.chosen}


def choose_detectors(
    scores: str | None,
    abilities: Abilities,
    calibration: Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> ChosenDetectors:
    """The detectors of every run and those that `scores` names.

    Args:
        scores: `all`, or names with commas; None for those of every run alone.
        calibration: rows of ordinary prompts.
        settings: of the run, which the calibration has to share.

    Raises:
        InputError: if a name is unknown, or asks for what this run does not have; of `all`, what it can give counts.
    """
    names = parse_names(scores) if scores is not None else []
    lacking = {name: why for name in names if (why := abilities.lacking(DETECTORS[name])) is not None}
    if lacking and scores != EVERYTHING:
        name, why = next(iter(lacking.items()))
        raise InputError(f"--scores {name} {why}")
    chosen = [n for n in names if n not in lacking and not DETECTORS[n].always]
    usual = [d.name for d in DETECTORS.values() if d.always and abilities.lacking(d) is None]
    return ChosenDetectors(
        [d for d in in_order_of_cost() if d.name in {*usual, *chosen}],
        chosen,
        read_calibration(calibration, settings) if calibration is not None else None,
    )


def parse_names(text: str) -> list[str]:
    """Names out of `all` or a list with commas.

    Raises:
        InputError: if one is no detector's, with the nearest known ones.
    """
    known = [d.name for d in in_order_of_cost()]
    names = known if text == EVERYTHING else list(dict.fromkeys(text.split(",")))
    unknown = next((n for n in names if n not in known), None)
    if unknown is not None:
        raise InputError(f"--scores has no {unknown!r}; {nearest(unknown, known, 'give all, or some of')}, with commas")
    return names


def read_calibration(path: Path, settings: Mapping[str, object] | None = None) -> Calibration:
    """Mean and standard deviation by step over all images of an ordinary run, of every norm that detectors keep.

    Args:
        settings: of the run that compares with it: the model, its steps and its guidance have to be the same.

    Raises:
        InputError: if the run was made otherwise, without --scores broken_memories, or is of one image.
    """
    run = read_run(path)
    names = [name for d in DETECTORS.values() for name in d.kept if name in run.rows[0]]
    if not names or any(name not in row for row in run.rows for name in names):
        raise InputError(f"{path} has no norms to calibrate with; make it with --scores broken_memories")
    if settings is not None:
        refuse_other_calibration(run, settings)
    norms = {name: stacked(run, name) for name in names}
    if len(next(iter(norms.values()))) < 2:
        raise InputError(f"{path} holds one image; calibrate with more")
    return Calibration({n: v.mean(0) for n, v in norms.items()}, {n: v.std(0) for n, v in norms.items()})


def refuse_other_calibration(run: Run, settings: Mapping[str, object]) -> None:
    """
    Raises:
        InputError: if a run of ordinary prompts was made otherwise than the one that compares with it.
    """
    name = next(iter(differing(run.settings, settings, (*MODEL_SETTINGS, "early_exit"))), None)
    if name is not None:
        theirs, ours = pair_text(name, run.settings, settings)
        raise InputError(
            f"--calibration {run.path} was made with {name} {theirs}, this run's is {ours}; make it with the same"
        )


def stacked(run: Run, name: str) -> torch.Tensor:
    """A list of every image's steps as one tensor, (images, steps).

    Raises:
        InputError: if images differ in their steps.
    """
    images = [steps for row in run.rows for steps in row[name]]
    if len({len(steps) for steps in images}) > 1:
        raise InputError(f"{run.path} has images of different numbers of steps; make it again")
    return torch.tensor(images)
