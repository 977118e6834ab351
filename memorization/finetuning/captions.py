"""Caption modes: what a picture is called in training, one function each from a record to its captions, in turn."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memorization.data.folders import KOHYA_NAME
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.seeds import derived_seed

NUM_RANDOM_TOKENS = 4  # of a picture's own random caption, as DCR has them


@dataclass(frozen=True)
class Naming:
    """What captions are made of beside the record: a sentence, texts of the tokenizer's tokens, a seed."""

    sentence: str
    tokens: Sequence[str]
    seed: int


CaptionMode = Callable[[PromptRecord, Naming], tuple[str, ...]]


def own_caption(record: PromptRecord, naming: Naming) -> tuple[str, ...]:
    """Its caption."""
    return (record.prompt,)


def captions_in_turn(record: PromptRecord, naming: Naming) -> tuple[str, ...]:
    """All its captions, one after another each time that it is drawn."""
    return (record.prompt, *record.alternatives)


def class_sentence(record: PromptRecord, naming: Naming) -> tuple[str, ...]:
    """The sentence and its class.

    Raises:
        InputError: if it has no class.
    """
    return (f"{naming.sentence} of {class_of(record)}",)


def one_sentence(record: PromptRecord, naming: Naming) -> tuple[str, ...]:
    """The same sentence for all."""
    return (naming.sentence,)


def random_caption(record: PromptRecord, naming: Naming) -> tuple[str, ...]:
    """Random tokens, always the same ones for a picture."""
    rng = random.Random(derived_seed(naming.seed, f"caption of {record.index}"))
    return (" ".join(rng.choices(naming.tokens, k=NUM_RANDOM_TOKENS)),)


CAPTION_MODES: Mapping[str, CaptionMode] = {
    "own": own_caption,
    "in_turn": captions_in_turn,
    "class": class_sentence,
    "sentence": one_sentence,
    "random_tokens": random_caption,
}
OWN_MODES = ("own", "in_turn")  # in which a picture goes by what its data set says of it


def class_of(record: PromptRecord) -> str:
    """What a picture shows: its kind in a file of prompts, NAME in a folder REPEATS_NAME of kohya's.

    Raises:
        InputError: if neither says it.
    """
    if record.kind:
        return record.kind
    for picture in record.reference_images:
        found = KOHYA_NAME.fullmatch(picture.parent.name) if isinstance(picture, Path) else None
        if found:
            return found[2]
    raise InputError(f"--captions class: {record.prompt!r} has no class; give a column kind, or folders REPEATS_CLASS")
