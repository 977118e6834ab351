"""Duplication modes: how often each record is in the training set, one function each."""

import random
from collections.abc import Callable, Mapping, Sequence

from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.seeds import derived_seed

DUPLICATES, SHARE = 200, 1.0  # by default, as Wen et al. fine-tune


def duplicated_places(count: int, share: float, seed: int) -> set[int]:
    """Which of `count` records are duplicated, by position: a share of them, drawn by the seed.

    Raises:
        InputError: if it is none.
    """
    number = round(share * count)
    if not number:
        raise InputError(f"--duplicated_share {share:g} of {count} pictures is none; give a larger share")
    return set(random.Random(derived_seed(seed, "duplicated")).sample(range(count), number))


def once(records: Sequence[PromptRecord], times: int, share: float, seed: int) -> list[int]:
    """Each once."""
    return [1] * len(records)


def some_more_often(records: Sequence[PromptRecord], times: int, share: float, seed: int) -> list[int]:
    """A share of them so many times."""
    chosen = duplicated_places(len(records), share, seed)
    return [times if k in chosen else 1 for k in range(len(records))]


def as_repeated(records: Sequence[PromptRecord], times: int, share: float, seed: int) -> list[int]:
    """As often as the data set says."""
    return [record.repeats for record in records]


IMAGE = "image"  # the mode in which the duplicates of a picture go by any of its captions
CHOOSING = ("image_and_caption", IMAGE)  # modes that choose what they duplicate
DUPLICATIONS: Mapping[str, Callable[[Sequence[PromptRecord], int, float, int], list[int]]] = {
    "none": once,
    "image_and_caption": some_more_often,
    IMAGE: some_more_often,
    "repeats": as_repeated,
}
