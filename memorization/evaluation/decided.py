"""Prompts with what was decided of them, in columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memorization.evaluation.score_columns import ScoreColumns
from memorization.sequences import MadeSequence


@dataclass(frozen=True, eq=False)
class Decided(MadeSequence[dict[str, Any]]):
    """A line for each prompt: its index and words, some numbers, and whether it is called memorized.

    Attributes:
        columns: of the score that decided.
        numbers: by name, (prompts,) each; the score is the first.
        memorized: bool (prompts,).
    """

    columns: ScoreColumns
    numbers: Mapping[str, np.ndarray]
    memorized: np.ndarray

    def __len__(self) -> int:
        return len(self.memorized)

    def item(self, place: int) -> dict[str, Any]:
        line = {"index": int(self.columns.indices[place]), "prompt": self.columns.prompts[place]}
        line |= {name: float(values[place]) for name, values in self.numbers.items()}
        return line | {"memorized": bool(self.memorized[place])}

    @property
    def num_memorized(self) -> int:
        return int(self.memorized.sum())

    def indices(self, chosen: np.ndarray) -> list[int]:
        """Those of the chosen prompts, bool (prompts,)."""
        return self.columns.indices[chosen].tolist()

    def highest(self, count: int | None = None) -> list[dict[str, Any]]:
        """The lines of the highest scores, the highest first; None for all."""
        order = np.argsort(-self.numbers["score"], kind="stable")
        return [self.item(place) for place in order[:count].tolist()]
