"""Which sample comes when: a stream that depends on the seed alone, so that a training goes on where it was."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, WeightedRandomSampler

from memorization.files.pixels import read_pixels
from memorization.finetuning.base import Acting, Caption
from memorization.finetuning.examples import Example
from memorization.seeds import derived_seed

NEGATIVE_SHARE = 0.1  # captions left empty, so that guidance keeps its unconditional branch


@dataclass(frozen=True)
class Draw:
    """One sample of the stream: its number there, the example, and how often that one came before."""

    number: int
    example: int
    occurrence: int


def draws(weights: Sequence[float], seed: int) -> Iterator[Draw]:
    """Examples without end, drawn with replacement by their weights."""
    seen, numbers = [0] * len(weights), count()
    for part in count():
        generator = torch.Generator().manual_seed(derived_seed(seed, f"draws {part}"))
        for k in WeightedRandomSampler(weights, len(weights), generator=generator):
            yield Draw(next(numbers), k, seen[k])
            seen[k] += 1


def batches(stream: Iterator[Draw], size: int, process: int = 0, num_processes: int = 1) -> Iterator[list[Draw]]:
    """A stream in batches, those that one of several processes takes."""
    while True:
        yield [list(islice(stream, size)) for _ in range(num_processes)][process]


class Samples(Dataset):
    """Draws as numbers of their examples, pixels in [-1, 1], token ids and a seed.

    Attributes:
        tokens: texts of the tokenizer's tokens.
        mitigations: those that act on captions, in their order.
        seed: of the training; a sample depends on it and on the draw alone.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer,
        tokens: Sequence[str],
        size: int,
        mitigations: Sequence[Acting],
        seed: int,
    ):
        """
        Args:
            tokenizer: of transformers.
            size: height and width in pixels.
        """
        self.examples, self.tokenizer, self.tokens = examples, tokenizer, tokens
        self.size, self.mitigations, self.seed = size, mitigations, seed

    def __getitem__(self, draw: Draw) -> dict[str, torch.Tensor]:
        """`example`, its number; `pixels` (3, size, size), `ids` (tokens,); `seed`, of what else is drawn for it."""
        pixels = Image.fromarray(read_pixels(self.examples[draw.example].picture)).resize((self.size, self.size))
        return {
            "example": torch.tensor(draw.example),
            "pixels": torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 127.5 - 1,
            "ids": token_ids(self.tokenizer, self.caption(draw)),
            "seed": torch.tensor(derived_seed(self.seed, f"noise {draw.number}")),
        }

    def caption(self, draw: Draw) -> str:
        """What the picture is called this time."""
        example = self.examples[draw.example]
        rng = random.Random(derived_seed(self.seed, f"caption {draw.number}"))
        text = example.captions[draw.occurrence % len(example.captions)]
        if example.takes_any:
            text = rng.choice(example.own_captions)
        for acting in self.mitigations:
            text = acting.caption(Caption(text, example.own_captions, self.tokens, rng))
        return "" if rng.random() < NEGATIVE_SHARE else text


def token_ids(tokenizer, caption: str) -> torch.Tensor:
    """Ids of a caption with begin, end and padding, (tokens,)."""
    return tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids[0]
