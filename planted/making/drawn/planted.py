"""What is planted into the drawn world: captions, their doses and their paraphrases."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from planted.making.doses import dose_plan
from planted.making.drawn.words import ADJECTIVES, CLUTTER_CAPTIONS, COLORED_CAPTIONS, COLORS, NOUNS, THINGS, worded

MAX_USES = 7  # of an adjective or a noun in planted captions


@dataclass(frozen=True)
class Planted:
    """The words of a planted caption; `number` fixes its picture.

    Attributes:
        dose: how many pictures of the training set carry it.
        num_captions: how many wordings they come with, in turn.
    """

    number: int
    kind: str  # "verbatim" or "template"
    adjective: str
    noun: str
    thing: int
    dose: int
    num_captions: int = 1

    def words(self, synonym: int = 0, color: str | None = None) -> dict[str, str | None]:
        return {"adjective": self.adjective, "noun": self.noun, "thing": THINGS[self.thing][synonym], "color": color}

    def wordings(self) -> tuple[str, ...]:
        return COLORED_CAPTIONS if self.kind == "template" else CLUTTER_CAPTIONS

    def caption(self, color: str | None = None) -> str:
        """The caption that it is asked for by; templates vary in their colour word."""
        return worded(self.wordings()[0], self.words(color=color))

    def training_captions(self, color: str | None = None) -> list[str]:
        return [worded(c, self.words(color=color)) for c in self.wordings()[: self.num_captions]]

    def paraphrases(self, color: str | None = None) -> list[str]:
        """Captions of the same meaning and vocabulary, none of them ever trained on."""
        trained = set(self.training_captions(color))
        every = [worded(c, self.words(s, color)) for s in (0, 1) for c in self.wordings()]
        return [c for c in every if c not in trained]


def planted_items() -> list[Planted]:
    """All planted captions: distinct adjective-noun pairs, spread evenly over the words, in the order of the plan."""
    plan = dose_plan()
    pairs = spread_pairs(len(plan))
    return [
        Planted(number, d.kind, *pair, thing=number % len(THINGS), dose=d.dose, num_captions=d.num_captions)
        for number, (d, pair) in enumerate(zip(plan, pairs, strict=True))
    ]


def spread_pairs(count: int) -> list[tuple[str, str]]:
    """Adjective-noun pairs in which no word occurs often."""
    rng = random.Random(20)
    every = [(a, n) for a in ADJECTIVES for n in NOUNS]
    rng.shuffle(every)
    used = dict.fromkeys((*ADJECTIVES, *NOUNS), 0)
    pairs: list[tuple[str, str]] = []
    for adjective, noun in every:
        if len(pairs) < count and max(used[adjective], used[noun]) < MAX_USES:
            used[adjective] += 1
            used[noun] += 1
            pairs.append((adjective, noun))
    return pairs


def template_color(item: Planted) -> str:
    """The colour word under which a template is asked for in the prompt files."""
    return list(COLORS)[item.number % len(COLORS)]


def near_miss(item: Planted) -> str:
    """A caption that differs from a planted one in a single word and is kept out of training."""
    taken = {(p.adjective, p.noun) for p in planted_items()}
    swap = item.number % 3
    if swap == 0:
        other = next(a for a in rotate(ADJECTIVES, item.number) if (a, item.noun) not in taken)
        words = item.words() | {"adjective": other}
    elif swap == 1:
        other = next(n for n in rotate(NOUNS, item.number) if (item.adjective, n) not in taken)
        words = item.words() | {"noun": other}
    else:
        words = item.words() | {"thing": THINGS[(item.thing + 2) % len(THINGS)][0]}
    return worded(item.wordings()[0], words | {"color": template_color(item)})


def rotate(words: Sequence[str], start: int) -> tuple[str, ...]:
    start %= len(words)
    return (*words[start:], *words[:start])


def held_out_captions() -> set[str]:
    """Captions that no ordinary scene may carry: planted ones, their paraphrases and near misses."""
    held: set[str] = set()
    for item in planted_items():
        held.add(near_miss(item))
        for color in COLORS if item.kind == "template" else (None,):
            held.update(item.training_captions(color))
            held.update(item.paraphrases(color))
    return held
