"""One score of some rows, in columns: of a screen as it lies there, so that a prompt takes tens of bytes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from memorization.files.column_rows import SCORE, ColumnRows
from memorization.scores import image_scores

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ScoreColumns:
    """One score of some rows.

    Attributes:
        indices: of the prompts, int (rows,).
        prompts: their words.
        scores: float (rows, images).
    """

    indices: np.ndarray
    prompts: Sequence[str]
    scores: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """The prompts' scores, over their images, (rows,)."""
        return self.scores.mean(1)


def score_columns(rows: Iterable[Row], key: str, horizon: int | None, num_images: int | None = None) -> ScoreColumns:
    """A score of rows of equally many images, as `image_scores` gives it; rows are gone through once, and none is held.

    Raises:
        KeyError: if a row does not have the score.
    """
    if isinstance(rows, ColumnRows):
        if key != SCORE:
            raise KeyError(key)
        return ScoreColumns(rows.indices, rows.prompts, rows.scores[:, :num_images].astype(float))
    indices, prompts, scores = [], [], []
    for row in rows:
        indices.append(row["index"])
        prompts.append(row["prompt"])
        scores.append(image_scores(row, key, horizon, num_images))
    return ScoreColumns(np.array(indices), prompts, np.stack(scores) if scores else np.empty((0, 1)))


def fingerprints(prompts: Sequence[str]) -> np.ndarray:
    """Sixteen bytes for each prompt, the same where the words are, (prompts,); words of any length would take more."""
    digests = (blake2b(words.encode("utf-8", "surrogatepass"), digest_size=16).digest() for words in prompts)
    return np.fromiter(digests, "S16", len(prompts))
