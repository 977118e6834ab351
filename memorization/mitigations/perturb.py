"""Random prompt perturbations of Somepalli et al. (NeurIPS 2023): shared by the methods that add words.

As in the released code, a prompt's words are what lies between single spaces, and every place is as likely as another.
"""

import random
from collections.abc import Callable, Sequence
from functools import partial

from memorization.mitigations.base import Flags, mitigation
from memorization.released import SD1, SD2

NUMBERS = 100_000  # that are drawn from, 0 being the smallest
RELEASED = {"strength": 4}
SWEEP = (1, 2, 3, 4, 6)

Words = Sequence[str]
Draw = Callable[[Words, random.Random, Words], str]


def random_number(words: Words, rng: random.Random, vocabulary: Words) -> str:
    """A number below 100,000."""
    return str(rng.randrange(NUMBERS))


def random_token(words: Words, rng: random.Random, vocabulary: Words) -> str:
    """The text of one of the tokenizer's tokens, a whole word or not."""
    return rng.choice(vocabulary)


def own_word(words: Words, rng: random.Random, vocabulary: Words) -> str:
    """One of the caption's own words, as likely at the last draw as at the first."""
    return rng.choice(words)


# What a style adds: from the original words, a generator and the texts of the tokenizer's tokens.
AUGMENTATIONS: dict[str, Draw] = {
    "rand_numb_add": random_number,
    "rand_word_add": random_token,
    "rand_word_repeat": own_word,
}


def augment_prompt(prompt: str, style: str, repeat_num: int, seed: int, vocabulary: Words = ()) -> str:
    """Perturb a prompt `repeat_num` times in one of the styles of `AUGMENTATIONS`.

    Args:
        prompt: the caption.
        style: name of the augmentation.
        repeat_num: how many words are added; 0 returns the prompt.
        seed: what the perturbation depends on.
        vocabulary: texts of the tokenizer's tokens to draw from, for rand_word_add.

    Raises:
        ValueError: for an unknown style.
    """
    if style not in AUGMENTATIONS:
        raise ValueError(f"unknown prompt augmentation {style!r}; choose one of {', '.join(AUGMENTATIONS)}")
    rng, original = random.Random(seed), prompt.split(" ")
    for _ in range(repeat_num):
        prompt = insert(prompt, AUGMENTATIONS[style](original, rng, vocabulary), rng)
    return prompt


def insert(prompt: str, word: str, rng: random.Random) -> str:
    """The prompt with a word at a random place."""
    words = prompt.split(" ")
    at = rng.randrange(len(words) + 1)
    return " ".join([*words[:at], word, *words[at:]])


def rewriting(style: str) -> Callable[[str, int, int, Words], str]:
    """The rewriting of a prompt in one style, from (prompt, number of words, seed, texts of tokens)."""
    return lambda prompt, number, seed, vocabulary: augment_prompt(prompt, style, number, seed, vocabulary)


def flags_of(style: str, number: float) -> Flags:
    return {"prompt_aug_style": style, "repeat_num": round(number)}


def adding_words(name: str, style: str) -> Callable:
    """`@mitigation` for a style: all of them differ in the word that they add."""
    return mitigation(
        name,
        knob="number of words",
        source="Somepalli et al., NeurIPS 2023",
        sweep=SWEEP,
        reads="words",
        whole=True,
        flags=partial(flags_of, style),
        rewrite=rewriting(style),
        released={SD1: RELEASED, SD2: RELEASED},
        revision=2,
    )
