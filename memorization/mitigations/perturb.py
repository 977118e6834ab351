"""Random prompt perturbations of Somepalli et al. (NeurIPS 2023): numbers, words, repeated words.

Each style takes the words of a prompt and a `random.Random` and gives them with one more word.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from memorization.mitigations.base import Flags, mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, plain_generation

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

LARGEST_NUMBER = 1_000_000
SOMEPALLI = "Somepalli et al., NeurIPS 2023"
SWEEP = (1, 2, 3, 4, 6)
KNOB = "number of words"

Words = Sequence[str]


def rand_numb_add(words: Words, rng: random.Random, vocabulary: Words) -> list[str]:
    """RNA: a random number at a random place."""
    return insert(words, str(rng.randrange(LARGEST_NUMBER)), rng)


def rand_word_add(words: Words, rng: random.Random, vocabulary: Words) -> list[str]:
    """RT: a random word of the tokenizer at a random place."""
    return insert(words, rng.choice(vocabulary), rng)


def rand_word_repeat(words: Words, rng: random.Random, vocabulary: Words) -> list[str]:
    """CWR: one of the caption's own words again at a random place."""
    return insert(words, rng.choice(words), rng) if words else list(words)


def insert(words: Words, word: str, rng: random.Random) -> list[str]:
    at = rng.randrange(len(words) + 1)
    return [*words[:at], word, *words[at:]]


AUGMENTATIONS: dict[str, Callable[[Words, random.Random, Words], list[str]]] = {
    "rand_numb_add": rand_numb_add,
    "rand_word_add": rand_word_add,
    "rand_word_repeat": rand_word_repeat,
}


def augment_prompt(prompt: str, style: str, repeat_num: int, seed: int, vocabulary: Words = ()) -> str:
    """Perturb a prompt `repeat_num` times in one of the styles of `AUGMENTATIONS`.

    Args:
        prompt: the caption.
        style: name of the augmentation.
        repeat_num: how many words are added; 0 returns the prompt.
        seed: what the perturbation depends on.
        vocabulary: words to draw from, for rand_word_add.

    Raises:
        ValueError: for an unknown style.
    """
    if style not in AUGMENTATIONS:
        raise ValueError(f"unknown prompt augmentation {style!r}; choose one of {', '.join(AUGMENTATIONS)}")
    if repeat_num == 0:
        return prompt
    rng, words = random.Random(seed), prompt.split()
    for _ in range(repeat_num):
        words = AUGMENTATIONS[style](words, rng, vocabulary)
    return " ".join(words)


def rewriting(style: str) -> Callable[[str, int, int, Words], str]:
    """The rewriting of a prompt in one style, from (prompt, number of words, seed, vocabulary)."""
    return lambda prompt, number, seed, vocabulary: augment_prompt(prompt, style, number, seed, vocabulary)


def flags_of(style: str, number: float) -> Flags:
    return {"prompt_aug_style": style, "repeat_num": round(number)}


def adding_words(name: str, style: str) -> Callable:
    """`@mitigation` for a style: all of them differ in the word that they add."""
    return mitigation(
        name,
        knob=KNOB,
        source=SOMEPALLI,
        sweep=SWEEP,
        reads="words",
        whole=True,
        flags=partial(flags_of, style),
        rewrite=rewriting(style),
    )


@adding_words("rna", "rand_numb_add")
def random_numbers(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Adds random numbers to the prompt.

    The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)


@adding_words("rt", "rand_word_add")
def random_words(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Adds random words to the prompt.

    The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)


@adding_words("cwr", "rand_word_repeat")
def repeated_words(
    pipe: "LocalStableDiffusionPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Repeats words of the prompt.

    The batch holds the changed prompts already.
    """
    return plain_generation(pipe, options, images)
