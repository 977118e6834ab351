"""What a planted world is trained on: captioned pictures, each with how often the training set repeats it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class TrainingPicture:
    """A picture of the training set.

    Attributes:
        image: uint8 (128, 128, 3).
        captions: what it is captioned by, one of them at each presentation.
        kind: of the prompts that ask for it, such as "object", "clutter", "verbatim" or "template".
        repeats: how often the training set holds it.
    """

    image: np.ndarray
    captions: tuple[str, ...]
    kind: str
    repeats: int = 1


def training_rows(pictures: Sequence[TrainingPicture]) -> torch.Tensor:
    """The training set row by row: each picture's number as often as it is repeated."""
    return torch.repeat_interleave(torch.arange(len(pictures)), torch.tensor([p.repeats for p in pictures]))


def draw_pictures(
    generator: torch.Generator, pictures: Sequence[TrainingPicture], rows: torch.Tensor, count: int
) -> tuple[list[int], list[str]]:
    """Numbers and captions of `count` rows of the training set, drawn with replacement."""
    numbers = rows[torch.randint(len(rows), (count,), generator=generator)].tolist()
    turns = torch.randint(2**31, (count,), generator=generator).tolist()
    captions = [pictures[n].captions[t % len(pictures[n].captions)] for n, t in zip(numbers, turns, strict=True)]
    return numbers, captions
