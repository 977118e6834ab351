"""Embeddings that bring training images back, searched prompt by prompt and kept as they are found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from memorization.bundled import bundled_name
from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.embedding_search import BATCH, LR, STEPS, search_embedding
from memorization.errors import InputError, input_errors
from memorization.files.whole import make_folder, replacing
from memorization.identity import CONTENT, change_text, differing
from memorization.needs import NOISE, refuse_undefined
from memorization.runs.workers import Processes
from memorization.seeds import image_seed

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

LATE_STEPS = 10  # at the end of a search, whose mean loss is told


@dataclass(frozen=True)
class SearchSettings:
    """What decides the embeddings, by the names of the command line; kept in the output."""

    model_id: str
    dataset: str
    gen_seed: int = 0
    num_steps: int = STEPS
    lr: float = LR
    batch_size: int = BATCH
    dtype: str = "float32"

    def kept(self, contents: Mapping[str, str]) -> dict[str, object]:
        """As they stand in the output, with the contents of model and data set."""
        return {name: bundled_name(value) for name, value in asdict(self).items()} | {CONTENT: dict(contents)}


@dataclass(frozen=True)
class Found:
    """Embeddings, (tokens, dim) each, and mean losses of the last steps by prompt index."""

    embeds: dict[str, torch.Tensor]
    losses: dict[str, float]

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, object]) -> "Found":
        """What an earlier call found; nothing without one.

        Args:
            settings: that it has to have been searched with.

        Raises:
            InputError: if the file is damaged, or of other settings.
        """
        if not path.exists():
            return cls({}, {})
        try:
            with safe_open(path, "pt") as file:
                metadata = {k: json.loads(v) for k, v in (file.metadata() or {}).items()}
                embeds = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a dict
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}; delete it") from error
        former = metadata.get("settings", {})
        changed = [change_text(name, former, settings) for name in differing(former, settings)]
        if changed:
            raise InputError(f"{path} was searched with other settings ({', '.join(changed)}); give another --output")
        return cls(embeds, metadata["losses"])

    def write(self, path: Path, settings: Mapping[str, object]) -> None:
        metadata = {"settings": json.dumps(settings), "losses": json.dumps(self.losses)}
        with replacing(path) as temporary:
            save_file(self.embeds, temporary, metadata)

    def add(self, other: "Found") -> None:
        self.embeds.update(other.embeds)
        self.losses.update(other.losses)


def search_prompt(
    pipe: "DenoisingPipeline", record: PromptRecord, settings: SearchSettings
) -> tuple[torch.Tensor, float]:
    """An embedding (tokens, dim) for a prompt's training images, and the mean loss of its last steps."""
    latents = pipe.encode_images([read_image(p) for p in record.reference_images])
    start, seed = pipe.encode([record.prompt])[0], image_seed(settings.gen_seed, record.index, 0)
    embeds, losses = search_embedding(pipe, latents, start, seed, settings.num_steps, settings.lr, settings.batch_size)
    return embeds[0].contiguous().cpu(), float(np.mean(losses[-LATE_STEPS:]))


def refuse_without_images(records: Sequence[PromptRecord], dataset: str) -> None:
    """
    Raises:
        InputError: if a prompt has no training image.
    """
    lacking = next((r for r in records if not r.reference_images), None)
    if lacking is not None:
        raise InputError(f"{dataset} has no training image of prompt {lacking.index}")


def search_records(
    pipe: "DenoisingPipeline",
    records: Sequence[PromptRecord],
    settings: SearchSettings,
    contents: Mapping[str, str],
    output: Path,
    processes: Processes | None = None,
) -> dict[str, float]:
    """Search for the prompts that are left, each kept when it is found; returns all mean losses.

    Args:
        records: with training images.
        contents: of model and data set, by the settings' names.
        output: .safetensors file, an embedding per prompt index; each process beside the main one has another beside
            it while it searches, which the main one takes up, after a kill as well.

    Raises:
        InputError: if the output is of other settings, or the search is not defined for the model or gives NaN.
    """
    refuse_undefined("embedding search", (NOISE,), pipe)
    workers = processes or Processes("cpu")
    kept = settings.kept(contents)
    with workers.main_first():
        if workers.is_main:
            make_folder(output.parent, "--output")
            take_up(output, kept)
        found = Found.read(output, kept)
    left = [r for r in records if str(r.index) not in found.embeds]
    mine = found if workers.is_main else Found({}, {})
    path = output if workers.is_main else shard_of(output, workers.rank)
    for record in tqdm(workers.share(left), desc="search", unit="prompt", disable=not workers.is_main):
        key = str(record.index)
        with input_errors():
            mine.embeds[key], mine.losses[key] = search_prompt(pipe, record, settings)
        mine.write(path, kept)
    workers.wait()
    with workers.main_first():
        if workers.is_main:
            take_up(output, kept)
        return Found.read(output, kept).losses


def shard_of(output: Path, rank: int) -> Path:
    """Where a process keeps what it finds."""
    return output.with_name(f"{output.name}.{rank}")


def take_up(output: Path, kept: Mapping[str, object]) -> None:
    """Add what other processes found, and remove their files."""
    shards = sorted(p for p in output.parent.glob(f"{output.name}.*") if p.suffix[1:].isdigit())
    if not shards:
        return
    found = Found.read(output, kept)
    for shard in shards:
        found.add(Found.read(shard, kept))
    found.write(output, kept)
    for shard in shards:
        shard.unlink()
