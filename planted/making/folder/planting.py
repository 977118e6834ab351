"""Which pictures of a folder are planted, held out, ordinary, or left out for being nearly one of those."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from memorization.errors import InputError
from planted.making.doses import Dose
from planted.making.folder.wordings import key_of, words_of

HELD_OUT = 10  # one ordinary picture in as many is held out
COMMON = 3  # captions that a word is in, for it to be common


@dataclass(frozen=True)
class Parts:
    """Numbers of pictures, none of which is in two parts, nor nearly the same as one of another part but `ordinary`.

    Attributes:
        planted: one per item of the plan, in its order.
        held_out: never trained on.
        ordinary: trained on once, none of them nearly a planted or a held-out picture or of its caption.
        left_out: nearly planted or held out, or of the same caption.
    """

    planted: tuple[int, ...]
    held_out: tuple[int, ...]
    ordinary: tuple[int, ...]
    left_out: tuple[int, ...]


def part(captions: Sequence[str], near: Sequence[set[int]], plan: Sequence[Dose], seed: int) -> Parts:
    """Draw the parts of a folder.

    Planted pictures are those whose words other captions have too, as far as they reach, so that what is memorized
    hangs on the whole caption.

    Args:
        near: of each picture the numbers of those that are nearly the same.

    Raises:
        InputError: if the folder is too small for the plan.
    """
    order = list(range(len(captions)))
    random.Random(seed).shuffle(order)
    same = with_same_caption(captions, near)
    uses = Counter(word for caption in captions for word in set(words_of(caption)))
    common = {i: all(uses[w] >= COMMON for w in words_of(captions[i])) for i in order}
    left_out: set[int] = set()
    planted = choose(sorted(order, key=lambda i: not common[i]), len(plan), same, left_out)
    rest = [i for i in order if i not in left_out and i not in planted]
    held_out = choose(rest, len(rest) // HELD_OUT, same, left_out)
    ordinary = tuple(sorted(set(rest) - left_out - set(held_out)))
    if len(planted) < len(plan) or not held_out or len(ordinary) < len(plan):
        told = f"{len(captions)} captioned pictures give {len(planted)} to plant and {len(ordinary)} ordinary ones"
        wanted = f"{len(plan)} of either kind and some to hold out are wanted"
        raise InputError(f"{told} that differ in picture and caption; {wanted}: give a larger folder")
    return Parts(tuple(planted), tuple(held_out), ordinary, tuple(sorted(left_out)))


def with_same_caption(captions: Sequence[str], near: Sequence[set[int]]) -> list[set[int]]:
    """Of each picture those that are nearly the same or whose captions tell the same."""
    of_key: dict[str, set[int]] = {}
    for number, caption in enumerate(captions):
        of_key.setdefault(key_of(caption), set()).add(number)
    return [(near[i] | of_key[key_of(c)]) - {i} for i, c in enumerate(captions)]


def choose(order: Sequence[int], count: int, same: Sequence[set[int]], left_out: set[int]) -> list[int]:
    """The first `count` numbers in an order that are not left out; what is the same as one of them is from then on."""
    chosen: list[int] = []
    for number in order:
        if len(chosen) < count and number not in left_out:
            chosen.append(number)
            left_out |= same[number]
    return chosen
