"""The captions of a training set, controls made out of their words, and the files that runs read them from."""

import json
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memorization.data.links import lacks_pictures
from memorization.data.pictures import check_pictures
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import InputError
from memorization.files.packed import PictureFile
from memorization.files.whole import make_folder, write_text
from memorization.similarity.index.entries import plain_folder

TRIES = 50  # draws for each control that is wanted, before there are held to be no more


@dataclass(frozen=True)
class TrainingSet:
    """Captioned pictures that a model was trained on.

    Attributes:
        name: as it was given.
        records: with pictures, by their index.
    """

    name: str
    records: Mapping[int, PromptRecord]

    @cached_property
    def captions(self) -> dict[str, int]:
        """Every caption once, with the index of the first picture that has it."""
        found: dict[str, int] = {}
        for index, record in self.records.items():
            found.setdefault(record.prompt, index)
        return found

    @cached_property
    def pictures(self) -> list[tuple[int, PictureFile]]:
        """Every picture with its record's index, in the order in which they are compared with."""
        return [(index, file) for index, record in self.records.items() for file in record.reference_images]


def read_training_set(name: str) -> TrainingSet:
    """Read captioned pictures of any form that --dataset takes, and look at every picture.

    Raises:
        InputError: if pictures have no captions or empty ones, captions have no pictures, pictures are damaged, or
            there are fewer than two.
    """
    refuse_without_captions(name)
    records = load_prompts(name)
    lacking = [r for r in records if not r.reference_images]
    if lacking:
        told = f"lacks a picture for {len(lacking)} of {len(records)} captions, as {lacking[0].prompt[:60]!r}"
        remedy = "give the training pictures with their captions"
        raise InputError(lacks_pictures(name, lacking, f"{told}; {remedy}"))
    if not any(record.prompt.strip() for record in records):
        raise InputError(f"{name} has empty captions alone; give those that the model was trained with")
    if len(records) < 2:
        raise InputError(f"{name} has one picture; rank and background take two or more")
    check_pictures(records)
    return TrainingSet(name, {record.index: record for record in records})


def refuse_without_captions(name: str) -> None:
    """
    Raises:
        InputError: if a folder has pictures and nothing else.
    """
    if plain_folder(name) is not None:
        told = "write each one's caption into a .txt file of its name, or give a data set that has them"
        raise InputError(f"{name} has pictures without captions; {told}")


def read_controls(name: str, training: TrainingSet, most: int) -> list[PromptRecord]:
    """Captions that were not trained on, with their pictures where there are any; each once, the first `most` of them.

    Raises:
        InputError: if there are none beside those of the training set.
    """
    refuse_without_captions(name)
    given = {record.prompt: record for record in reversed(load_prompts(name))}
    kept = [record for caption, record in reversed(given.items()) if caption not in training.captions]
    if not kept:
        raise InputError(
            f"--controls {name} holds captions of {training.name} alone; give some that were not trained on"
        )
    return kept[:most]


def recombined_captions(captions: Collection[str], count: int, seed: int) -> list[PromptRecord]:
    """Captions that nobody wrote: the beginning of one and the end of another, cut where words end.

    Half of each control is a caption that was trained on, so that a control may score higher than an unrelated
    caption would: too few are flagged then, never too many.

    Args:
        count: as many at most; captions of a word or two give fewer.

    Raises:
        InputError: if the captions give none.
    """
    words = [caption.split() for caption in captions]
    rng, found = random.Random(seed), dict[str, None]()
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        begin, end = rng.choice(words), rng.choice(words)
        made = " ".join(begin[: (len(begin) + 1) // 2] + end[(len(end) + 1) // 2 :])
        if made not in captions:
            found[made] = None
    if not found:
        raise InputError(f"{len(words)} captions give no controls by their words; give others by --controls")
    return [PromptRecord(k, caption, caption) for k, caption in enumerate(found)]


def write_prompts(path: Path, prompts: Mapping[int, str], kinds: Mapping[int, str] | None = None) -> None:
    """A file of prompts for --dataset, by their indices; `kinds` of each may go with them."""
    rows = [{"index": i, "caption": c} | ({} if kinds is None else {"kind": kinds[i]}) for i, c in prompts.items()]
    make_folder(path.parent, "--output")
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
