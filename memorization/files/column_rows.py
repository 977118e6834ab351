"""Rows of a screen as they lie in columns, and each as a row of JSON lines has it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memorization.sequences import MadeSequence

SCORE = "text_noise_norm"  # D of the first step
COLUMNS = ("index", "prompt", SCORE)


class ColumnRow(Mapping[str, Any]):
    """A row of a screen, made as it is asked for."""

    __slots__ = ("rows", "place")

    def __init__(self, rows: "ColumnRows", place: int):
        self.rows, self.place = rows, place

    def __getitem__(self, key: str) -> Any:
        return self.rows.value(key, self.place)

    def __iter__(self) -> Iterator[str]:
        return iter((*COLUMNS, "seeds"))

    def __len__(self) -> int:
        return len(COLUMNS) + 1


@dataclass(frozen=True, eq=False)
class ColumnRows(MadeSequence[ColumnRow]):
    """The rows of a screen: about as many bytes as their words have, and four for each image.

    Attributes:
        indices: of the prompts, int (rows,).
        prompts: their words.
        scores: by the key `SCORE`, float32 (rows, images); in a row each is a list of steps, which is one.
        seeds: of the images of every row.
    """

    indices: np.ndarray
    prompts: Sequence[str]
    scores: np.ndarray
    seeds: list[int]

    def __len__(self) -> int:
        return len(self.scores)

    def item(self, place: int) -> ColumnRow:
        return ColumnRow(self, place)

    def value(self, key: str, place: int) -> Any:
        if key == SCORE:
            return self.scores[place, :, None].tolist()
        if key == "prompt":
            return self.prompts[place]
        if key == "index":
            return int(self.indices[place])
        if key == "seeds":
            return self.seeds
        raise KeyError(key)
