"""Which prompts are memorized, at a false discovery rate: conformal p-values against control prompts.

A prompt's p-value is the share of controls, itself counted with them, that score as high. Over all prompts of a run
Benjamini and Hochberg's procedure keeps the expected share of false ones among those called memorized at `fdr` or
below; p-values that share their controls depend on one another in the way that it allows (Bates, Candes, Lei, Romano
and Sesia, Annals of Statistics 2023).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memorization.errors import InputError
from memorization.evaluation.controls import EXCHANGEABLE, Controls, refuse_other_settings, refuse_other_steps
from memorization.evaluation.decided import Decided
from memorization.evaluation.score_columns import Row, score_columns
from memorization.evaluation.thresholds import yes_or_no
from memorization.scores import score_label
from memorization.tables import Table

WARNING = "warning: "  # begins a line that says why little can be found


def conformal_p_values(scores: npt.ArrayLike, controls: npt.ArrayLike) -> np.ndarray:
    """(1 + number of controls that score as high) / (number of controls + 1), (prompts,).

    Args:
        scores: of the prompts, (prompts,); higher = memorized.
        controls: of prompts that are not memorized, (controls,).

    Raises:
        ValueError: without controls, or for scores that are NaN.
    """
    scores, controls = np.asarray(scores, float), np.sort(np.asarray(controls, float))
    if not len(controls) or np.isnan(scores).any() or np.isnan(controls).any():
        raise ValueError("p-values take controls, and scores that are numbers")
    return (1 + len(controls) - np.searchsorted(controls, scores, "left")) / (len(controls) + 1)


def benjamini_hochberg(p_values: npt.ArrayLike) -> np.ndarray:
    """q-values, (prompts,): the lowest false discovery rate at which each is found.

    Benjamini and Hochberg, Journal of the Royal Statistical Society B 1995.
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    adjusted = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    found = np.empty(len(p_values))
    found[order] = np.minimum(np.minimum.accumulate(adjusted[::-1])[::-1], 1)
    return found


def too_few_controls(controls: int, fdr: float, count: int, what: str = "prompts") -> str | None:
    """Why little or nothing can be found with so few controls; None where one of `count` alone can be.

    Args:
        what: is decided.
    """
    together = math.ceil(count / (fdr * (controls + 1)) - 1e-9)  # of them at the lowest p-value there is
    if together <= 1:
        return None
    told = "" if together > count else f" unless {together} of {count} {what} score above all of them"
    enough = math.ceil(count / fdr - 1 - 1e-6)
    return f"{WARNING}with {controls} controls nothing is found{told}; {enough} are enough to find one alone"


MOST_SHOWN = 1000  # prompts of a table beyond those that are found


@dataclass(frozen=True)
class Decisions:
    """How prompts are decided: the controls, and the share of false ones that is allowed among those found."""

    controls: Controls
    fdr: float = 0.05

    @property
    def key(self) -> str:
        return self.controls.key

    def refuse_other_run(self, settings: Mapping[str, Any], source: object) -> None:
        """
        Args:
            settings: of the run that is to be decided.
            source: the controls' file, for the message.

        Raises:
            InputError: if the controls were made with another model, another way of sampling or another number of
            images.
        """
        refuse_other_settings(self.controls.settings, settings, str(source))
        refuse_other_steps(self.controls.settings, settings, self.controls.T, str(source))

    def warning(self, num_prompts: int) -> str | None:
        """Why little or nothing can be found with so few controls; None where one prompt alone can be."""
        return too_few_controls(len(self.controls.scores), self.fdr, num_prompts)

    def of_rows(self, rows: Iterable[Row]) -> Decided:
        """For each row its index, prompt, score, p-value, q-value, and whether it is called memorized.

        Raises:
            InputError: if a row does not have the score.
        """
        try:
            columns = score_columns(rows, self.key, self.controls.T)
        except KeyError as error:
            told = f"{self.controls.source} decides by {self.name}, which this run does not give"
            raise InputError(told) from error
        scores = columns.means
        p_values = conformal_p_values(scores, self.controls.scores)
        q_values = benjamini_hochberg(p_values)
        return Decided(columns, {"score": scores, "p": p_values, "q": q_values}, q_values <= self.fdr)

    @property
    def name(self) -> str:
        return score_label(self.controls.key, self.controls.T)

    def table(self, decided: Decided) -> Table:
        """Prompts' decisions, the highest score first: of all prompts, or of those found where there are very many."""
        found, images = decided.num_memorized, self.controls.settings["num_images_per_prompt"]
        shown = decided.highest(max(MOST_SHOWN, found))
        rows = [
            [line["index"], yes_or_no(line), line["score"], line["p"], line["q"], line["prompt"][:60]] for line in shown
        ]
        told = f"{found} of {len(decided)} prompts are memorized by {self.name} at a false discovery rate of "
        told += f"{self.fdr:g}, against {len(self.controls.scores)} controls of {images} images each "
        told += f"({self.controls.source}); "
        told += f"the {len(shown)} highest are shown; " if len(shown) < len(decided) else ""
        headers = ["index", "memorized", self.name, "p", "q", "prompt"]
        warning = self.warning(len(decided))
        return Table("Decisions", headers, rows, told + EXCHANGEABLE + (f"\n{warning}" if warning else ""))
