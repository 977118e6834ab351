"""Make an index shard by shard: a kill loses the shards under way, and what is made is the same, byte for byte."""

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.errors import InputError, warn
from memorization.files.whole import replacing
from memorization.similarity.index.describers import Describer
from memorization.similarity.index.entries import Entry, entries_of
from memorization.similarity.index.stored import (
    HEADER,
    MAX_TOLD,
    OPENED_BY,
    SETTINGS,
    StoredIndex,
    read_header,
    write_header,
)

READERS = 4  # threads


def begin_index(
    folder: Path, dataset: str, prompt_key: str | None, settings: Mapping[str, Any], dim: int, opened_by: object
) -> StoredIndex:
    """List all pictures of a data set, or take up what an earlier call has listed.

    Args:
        settings: what decides the index, `shard_size` among it.
        dim: length of a descriptor.
        opened_by: options that open the descriptor again.

    Raises:
        InputError: if the data set has no pictures, or the folder holds an index of other settings.
    """
    if (folder / HEADER).exists():
        index = read_header(folder)
        index.refuse_other(settings, "give another --output")
        return index
    lines, shard, count = list[str](), 0, 0
    draft = StoredIndex(folder, {SETTINGS: settings, "pictures": 0})
    for entry in tqdm(entries_of(dataset, prompt_key), desc="list", unit="picture"):
        lines.append(json.dumps(entry.fields()) + "\n")
        count += 1
        if len(lines) == settings["shard_size"]:
            write_lines(draft.entries_file(shard), lines)
            lines, shard = [], shard + 1
    if lines:
        write_lines(draft.entries_file(shard), lines)
    header = {SETTINGS: dict(settings), OPENED_BY: opened_by, "pictures": count, "dim": dim, "unreadable": None}
    return write_header(folder, header)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def describe_shards(
    index: StoredIndex, shards: Sequence[int], describer: Describer, batch_size: int, hidden: bool = False
) -> None:
    """Describe the pictures of some shards; those that are there already are left as they are.

    Batches are cut within a shard by position, so that who describes it changes nothing.

    Args:
        hidden: show no progress, as of all processes but one.
    """
    left = [shard for shard in shards if not index.is_described(shard)]
    total = min(index.num_rows, len(left) * index.shard_size)
    with ThreadPoolExecutor(READERS) as pool, tqdm(total=total, desc="describe", unit="picture", disable=hidden) as bar:
        for shard in left:
            parts = []
            for pictures in read_ahead(pool, index.shard_entries(shard), batch_size):
                parts.append(describe_readable(describer, pictures))
                bar.update(len(pictures))
            index.save(shard, np.concatenate(parts))


def read_ahead(
    pool: ThreadPoolExecutor, entries: Sequence[Entry], batch_size: int
) -> Iterator[list[np.ndarray | None]]:
    """The pictures of a batch, uint8 (height, width, 3) or None each, while those of the next are read."""
    waiting: list[Future] = []
    for start in range(0, len(entries), batch_size):
        coming = [pool.submit(read_or_none, entry) for entry in entries[start : start + batch_size]]
        if waiting:
            yield [future.result() for future in waiting]
        waiting = coming
    yield [future.result() for future in waiting]


def read_or_none(entry: Entry) -> np.ndarray | None:
    """A picture; None of one that cannot be read."""
    try:
        return read_image(entry.picture)
    except InputError:
        return None


def describe_readable(describer: Describer, pictures: Sequence[np.ndarray | None]) -> np.ndarray:
    """Descriptors of a batch, float32 (pictures, dim); NaN where there is no picture."""
    found = np.full((len(pictures), describer.dim), np.nan, np.float32)
    there = [k for k, picture in enumerate(pictures) if picture is not None]
    if there:
        found[there] = describer([picture for picture in pictures if picture is not None])
    return found


def finish_index(index: StoredIndex) -> StoredIndex:
    """Count the pictures that could not be read, and say so in one line.

    Raises:
        InputError: if shards are missing, or no picture can be read.
    """
    lacking = [shard for shard in range(index.num_shards) if not index.is_described(shard)]
    if lacking:
        told = f"{index.folder} lacks {len(lacking)} of {index.num_shards} shards, of a process that was ended"
        raise InputError(f"{told}; the same command again goes on")
    bad = [start + row for start, block in index.blocks() for row in np.flatnonzero(np.isnan(block[:, 0])).tolist()]
    if bad:
        shown = ", ".join(str(entry.picture) for entry in index.entries(bad[:MAX_TOLD]).values())
        told = f"{len(bad)} of {index.num_rows} pictures cannot be read and have no descriptor: {shown}"
        if len(bad) == index.num_rows:
            raise InputError(told)
        warn(told + (", ..." if len(bad) > MAX_TOLD else ""))
    return write_header(index.folder, {**index.header, "unreadable": len(bad)})
