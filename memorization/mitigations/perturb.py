"""Random prompt perturbations of Somepalli et al. (NeurIPS 2023): numbers, words, repeated words.

Each takes the words of a prompt and a `random.Random` and returns one more word and where it goes.
"""

import random

LARGEST_NUMBER = 1_000_000


def rand_numb_add(words, rng, vocabulary):
    """RNA: a random number at a random place."""
    return insert(words, str(rng.randrange(LARGEST_NUMBER)), rng)


def rand_word_add(words, rng, vocabulary):
    """RT: a random word of the tokenizer at a random place."""
    return insert(words, rng.choice(vocabulary), rng)


def rand_word_repeat(words, rng, vocabulary):
    """CWR: one of the caption's own words again at a random place."""
    return insert(words, rng.choice(words), rng) if words else words


def insert(words, word, rng):
    at = rng.randrange(len(words) + 1)
    return [*words[:at], word, *words[at:]]


AUGMENTATIONS = {f.__name__: f for f in (rand_numb_add, rand_word_add, rand_word_repeat)}


def augment_prompt(prompt, style, repeat_num, seed, vocabulary=()):
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
