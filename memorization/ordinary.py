"""Prompts that nobody trained on: ordinary captions that methods compare with, and random words of the tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from memorization.bundled import MODEL, PLANTED
from memorization.data.prompts import load_prompts

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

NUM_WORDS = 12
CAPTIONS = PLANTED / "planted_ordinary.jsonl"
MOST_CAPTIONS = 1000  # whose features fit into memory beside a model


def random_prompt(words: Sequence[str], rng: Random) -> str:
    return " ".join(rng.choice(words) for _ in range(NUM_WORDS))


def ordinary_text(pipe: "DenoisingPipeline", dataset: str | None = None) -> torch.Tensor:
    """Features of captions that are not memorized, (captions, tokens, dim): what methods compare with.

    Args:
        dataset: as `--dataset` takes it, of which the first 1000 are read; by default the bundled captions, which are
            of the bundled model's few words: another model is warned about.

    Raises:
        InputError: if the data set cannot be read.
    """
    if dataset is None and Path(pipe.name_or_path or "").resolve() != MODEL.resolve():
        tqdm.write(
            f"warning: compared with the {CAPTIONS.name} of the bundled model, whose words are few; give captions of "
            "this model's kind by --ordinary"
        )
    return pipe.encode([r.prompt for r in load_prompts(dataset or str(CAPTIONS), 0, MOST_CAPTIONS)])[0]
