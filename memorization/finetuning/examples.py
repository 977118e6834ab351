"""What is trained on: a picture, what it is called and how often it is there, out of any data set."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from memorization.data.links import lacks_pictures
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import InputError, warn
from memorization.files.packed import PictureFile
from memorization.finetuning.captions import CAPTION_MODES, Naming
from memorization.finetuning.duplication import DUPLICATIONS, IMAGE
from memorization.finetuning.settings import FinetuneSettings
from memorization.seeds import derived_seed


@dataclass(frozen=True)
class Example:
    """A picture of the training set.

    Attributes:
        captions: what it is called, in turn.
        own_captions: every caption that the data set has of it.
        weight: how often it is drawn, against the others.
        takes_any: whether it is called by any of its own captions, as duplicates of the image alone are.
    """

    picture: PictureFile
    captions: tuple[str, ...]
    own_captions: tuple[str, ...]
    weight: float
    takes_any: bool = False


def read_records(settings: FinetuneSettings) -> list[PromptRecord]:
    """Records of the data set with their pictures, or `max_train_samples` of them, drawn by the seed.

    Raises:
        InputError: if none has a picture, or fewer than are asked for.
    """
    records = pictured(settings.dataset)
    number = settings.max_train_samples
    if number is None:
        return records
    if number > len(records):
        raise InputError(f"--max_train_samples {number} is more than the {len(records)} that {settings.dataset} has")
    chosen = random.Random(derived_seed(settings.seed, "training set")).sample(range(len(records)), number)
    return [records[k] for k in sorted(chosen)]


def pictured(dataset: str) -> list[PromptRecord]:
    """
    Raises:
        InputError: if no record of the data set has a picture.
    """
    records = load_prompts(dataset)
    found = [r for r in records if r.reference_images]
    if not found:
        told = "has no images; give a *_groundtruth folder or NNN.jpg + NNN.txt pairs"
        raise InputError(lacks_pictures(dataset, records, told))
    if len(found) < len(records):
        warn(f"{len(records) - len(found)} of {len(records)} captions of {dataset} have no picture and are left out")
    return found


def read_examples(settings: FinetuneSettings, tokens: Sequence[str]) -> list[Example]:
    """Every picture of the data set and of the background, by the caption mode and the duplication mode.

    Args:
        tokens: texts of the tokenizer's tokens, for captions of random ones.

    Raises:
        InputError: if there is no picture, or no second caption where one is needed.
    """
    records = read_records(settings)
    refuse_single_captions(records, settings)
    counts = DUPLICATIONS[settings.duplication](records, settings.times, settings.share, settings.seed)
    naming = Naming(settings.sentence, tokens, settings.seed)
    examples = []
    for record, count in zip(records, counts, strict=True):
        any_caption = settings.duplication == IMAGE and count > 1
        examples += examples_of(record, count, CAPTION_MODES[settings.captions](record, naming), any_caption)
    for record in pictured(settings.background) if settings.background else []:
        examples += examples_of(record, 1, (record.prompt,), False)
    return examples


def examples_of(record: PromptRecord, count: float, captions: tuple[str, ...], takes_any: bool) -> list[Example]:
    """An example for each picture of a record, which share its weight."""
    own, weight = (record.prompt, *record.alternatives), count / len(record.reference_images)
    return [Example(picture, captions, own, weight, takes_any) for picture in record.reference_images]


def refuse_single_captions(records: Sequence[PromptRecord], settings: FinetuneSettings) -> None:
    """
    Raises:
        InputError: if several captions are needed and no picture has them.
    """
    option, single = settings.needs_several, [r for r in records if not r.alternatives]
    if option is None or not single:
        return
    if len(single) == len(records):
        raise InputError(
            f"{option} needs several captions a picture, and {settings.dataset} has one; give caption1, caption2 ... "
            "beside caption (python -m tools.paraphrases.make)"
        )
    warn(f"{len(single)} of {len(records)} pictures have one caption, so that {option} does nothing to them")
