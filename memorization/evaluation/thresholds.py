"""Decision thresholds: calibrated by eval_mem.py on prompts that are not memorized, used by detect_mem.py."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memorization.errors import InputError
from memorization.evaluation.classes import Part
from memorization.evaluation.controls import CALIBRATED, controls_of, refuse_other_settings, refuse_other_steps
from memorization.evaluation.decided import Decided
from memorization.evaluation.score_columns import Row, score_columns
from memorization.rows import is_number, is_whole
from memorization.scores import label
from memorization.tables import Table

ROUNDING = 1e-9  # of a false positive rate times a number of prompts


def controls_needed(fpr: float) -> int:
    """How many control prompts a threshold at a false positive rate takes: 1 / fpr - 1."""
    return math.ceil(1 / fpr - 1 - ROUNDING / fpr)


def calibrate_threshold(scores: npt.ArrayLike, fpr: float) -> float:
    """The ceil((1 - fpr)(n + 1))-th smallest of n control scores.

    A prompt is called memorized when its score is above it, which is where its conformal p-value is at most `fpr`. Of
    prompts that are exchangeable with the controls that happens to a share of at most `fpr`, on average over controls;
    the share of the controls themselves that lies above is smaller.

    Args:
        scores: of the controls, (controls,).
        fpr: false positive rate, between 0 and 1.

    Raises:
        ValueError: if `fpr` is not between 0 and 1, or there are too few controls: fewer than 1 / fpr - 1.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"a false positive rate of {fpr} is not between 0 and 1")
    scores = np.sort(np.asarray(scores, float))
    if len(scores) < controls_needed(fpr):
        needed = controls_needed(fpr)
        raise ValueError(
            f"a false positive rate of {fpr:g} takes {needed} or more prompts that are not memorized, not {len(scores)}"
        )
    above = math.floor(fpr * (len(scores) + 1) + ROUNDING) - 1  # controls that may lie above
    return float(scores[len(scores) - 1 - above])


@dataclass(frozen=True)
class Threshold:
    """A calibrated decision: a prompt whose mean score exceeds `threshold` is called memorized.

    Attributes:
        key: row key of the score.
        T: how many first steps are averaged; None for all, or where the score has no steps.
        threshold: of the mean over a prompt's images.
        fpr: false positive rate that it keeps for prompts that are exchangeable with the negatives.
        num_negatives: distinct prompts that it was calibrated on.
        num_images: of each of them.
        settings: of the runs, which a run that uses the threshold must share.
    """

    key: str
    T: int | None
    threshold: float
    fpr: float
    num_negatives: int
    num_images: int
    settings: dict[str, Any]

    def save_text(self) -> str:
        """Content of a threshold file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> "Threshold":
        """The threshold of a file.

        Raises:
            InputError: if the file is not there, is no threshold file, or is of a version that let through more than it
                said.
        """
        try:
            with open(path, encoding="utf-8") as file:
                loaded = cls(**json.load(file))
            loaded.check()
        except FileNotFoundError as error:
            raise InputError(f"{path} does not exist; eval_mem.py detection --calibrate writes such a file") from error
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path} is not a threshold file of eval_mem.py detection --calibrate") from error
        if not set(CALIBRATED) <= loaded.settings.keys() or loaded.num_negatives < controls_needed(loaded.fpr):
            raise InputError(
                f"{path} is of an older version, whose thresholds let through more than they said: calibrate again "
                "with eval_mem.py detection --calibrate"
            )
        return loaded

    def check(self) -> None:
        """
        Raises:
            ValueError: if something is not of its type.
        """
        counts = (self.num_negatives, self.num_images, 1 if self.T is None else self.T)
        numbers = is_number(self.threshold) and is_number(self.fpr) and all(is_whole(n) and n for n in counts)
        if not (numbers and isinstance(self.key, str) and isinstance(self.settings, dict) and 0 < self.fpr < 1):
            raise ValueError("a value of another type")

    def refuse_other_run(self, settings: Mapping[str, Any], source: object) -> None:
        """
        Args:
            settings: of the run that is to use the threshold.
            source: the threshold file, for the message.

        Raises:
            InputError: if the threshold was calibrated on another model, another way of sampling or another number of
                images.
        """
        refuse_other_settings(self.settings, settings, str(source))
        refuse_other_steps(self.settings, settings, self.T, str(source))

    def warning(self, num_prompts: int) -> None:
        """None: a threshold decides every prompt alone, however many there are."""

    def of_rows(self, rows: Iterable[Row]) -> Decided:
        """For each row its index, prompt and score, the threshold, and whether it is called memorized.

        Raises:
            InputError: if a row does not have the score.
        """
        try:
            columns = score_columns(rows, self.key, self.T)
        except KeyError as error:
            raise InputError(f"the threshold is for {label(self.key)}, which this run does not give") from error
        scores = columns.means
        thresholds = np.broadcast_to(self.threshold, scores.shape)
        return Decided(columns, {"score": scores, "threshold": thresholds}, scores > self.threshold)

    def table(self, decided: Decided) -> Table:
        """All prompts' decisions, the highest score first."""
        rows = [[line["index"], yes_or_no(line), line["score"], line["prompt"][:60]] for line in decided.highest()]
        told = f"{decided.num_memorized} of {len(decided)} prompts above the threshold {self.threshold:.3f} on "
        told += f"{label(self.key)} of T={self.T or 'all'}, calibrated for {self.fpr:.1%} false positives on "
        told += (
            f"{self.num_negatives} prompts of {self.num_images} images each; valid where they are exchangeable with "
        )
        told += "what is not memorized"
        return Table("Decisions", ["index", "memorized", "score", "prompt"], rows, told)


def yes_or_no(line: Mapping[str, Any]) -> str:
    return "yes" if line["memorized"] else "no"


def calibrate(nonmem: Sequence[Part], key: str, horizon: int | None, fpr: float) -> Threshold:
    """Threshold on prompts' mean scores that keeps a false positive rate.

    Raises:
        InputError: if the runs do not have the score, or were not made in one way.
        ValueError: if `fpr` is not between 0 and 1, or there are too few prompts.
    """
    controls = controls_of(nonmem, key, horizon)
    return Threshold(
        key=key,
        T=controls.T,
        threshold=calibrate_threshold(controls.scores, fpr),
        fpr=fpr,
        num_negatives=len(controls.scores),
        num_images=controls.settings["num_images_per_prompt"],
        settings=controls.settings,
    )
