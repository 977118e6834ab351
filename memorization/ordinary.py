"""Prompts that nobody trained on: random words of the model's own tokenizer."""

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import torch

from memorization.data.sources import whole_words

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

NUM_WORDS = 12
NUM_PROMPTS = 100


def random_prompt(words: Sequence[str], rng: Random) -> str:
    return " ".join(rng.choice(words) for _ in range(NUM_WORDS))


def ordinary_text(pipe: "LocalStableDiffusionPipeline") -> torch.Tensor:
    """Embeddings of random prompts, the same every time, (prompts, tokens, dim): what methods compare with."""
    words = whole_words(pipe.tokenizer)
    return pipe.encode([random_prompt(words, Random(k)) for k in range(NUM_PROMPTS)])[0]
