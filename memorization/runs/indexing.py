"""An index of a training set, made by one process or by several."""

from collections.abc import Mapping
from pathlib import Path

from memorization.bundled import bundled_name
from memorization.data.contents import dataset_content
from memorization.files.whole import make_folder
from memorization.identity import CONTENT, names_of
from memorization.runs.workers import Processes
from memorization.similarity.index.build import begin_index, describe_shards, finish_index
from memorization.similarity.index.describers import Describer, DescriberSettings
from memorization.similarity.index.stored import StoredIndex

SHARD_SIZE = 4096


def build_index(
    folder: Path,
    dataset: str,
    settings: DescriberSettings,
    processes: Processes,
    prompt_key: str | None = None,
    shard_size: int = SHARD_SIZE,
    batch_size: int = 32,
) -> StoredIndex | None:
    """Describe every picture of a data set; the finished index, None for a process that is not the main one.

    Args:
        folder: of the index; what an earlier call has made of it is not made again.
        settings: what opens the descriptor.
        batch_size: pictures that are described at once.

    Raises:
        InputError: if the data set has no pictures, or the folder holds an index of something else.
    """
    make_folder(folder, "--output")
    with processes.main_first():
        describer = settings.open()
        kept = index_settings(dataset, prompt_key, shard_size, describer)
        index = begin_index(folder, dataset, prompt_key, kept, describer.dim, settings.kept())
    shards = processes.share(range(index.num_shards))
    describe_shards(index, shards, describer, batch_size, hidden=not processes.is_main)
    processes.wait()
    return finish_index(index) if processes.is_main else None


def index_settings(dataset: str, prompt_key: str | None, shard_size: int, describer: Describer) -> dict[str, object]:
    """What decides the index, as it is kept in it."""
    contents: Mapping[str, str] = names_of({"dataset": dataset_content(dataset)})
    named = {"dataset": bundled_name(dataset), "prompt_key": prompt_key, "shard_size": shard_size}
    return {**describer.identity, **named, CONTENT: dict(contents)}
