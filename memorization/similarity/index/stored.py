"""An index on disk: descriptors in shards that are read in place, and beside each shard what its pictures are.

index.json     descriptor, checkpoint, preprocessing, data set, counts
00000.npy      float16 (pictures, dim), unit vectors; a row of NaN is a picture that could not be read
00000.jsonl    a line for each row: file, caption, index of the prompt
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memorization.errors import InputError
from memorization.files.whole import replacing, write_text
from memorization.identity import change_text, differing
from memorization.similarity.index.entries import Entry

HEADER = "index.json"
SETTINGS, OPENED_BY = "settings", "opened_by"
BLOCK = 8192  # descriptors that are in memory as float32 at once
MAX_TOLD = 3  # files that a message names
IDENTITY = ("descriptor", "checkpoint", "preprocessing")


@dataclass(frozen=True)
class StoredIndex:
    """An index, finished or not.

    Attributes:
        folder: where it lies.
        header: of `index.json`: `settings`, `opened_by`, `pictures`, `dim` and, of a finished one, `unreadable`.
    """

    folder: Path
    header: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        return self.header[SETTINGS]

    @property
    def identity(self) -> dict[str, str]:
        """Descriptor, checkpoint and preprocessing."""
        return {name: self.settings[name] for name in IDENTITY}

    @property
    def dim(self) -> int:
        return self.header["dim"]

    @property
    def shard_size(self) -> int:
        return self.settings["shard_size"]

    @property
    def num_rows(self) -> int:
        """Number of pictures, those that could not be read among them."""
        return self.header["pictures"]

    @property
    def num_shards(self) -> int:
        return -(-self.num_rows // self.shard_size)

    def describe(self) -> str:
        """What has to stand beside numbers."""
        told = f"{self.settings['descriptor']}, preprocessing {self.settings['preprocessing']}, "
        return told + f"sha256 {self.settings['checkpoint'][:12]}, in float16"

    def descriptors_file(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.npy"

    def entries_file(self, shard: int) -> Path:
        return self.folder / f"{shard:05}.jsonl"

    def is_described(self, shard: int) -> bool:
        return self.descriptors_file(shard).exists()

    def save(self, shard: int, descriptors: np.ndarray) -> None:
        """Keep a shard's descriptors, whole or not at all."""
        with replacing(self.descriptors_file(shard)) as temporary, temporary.open("wb") as file:
            np.save(file, descriptors.astype(np.float16))

    def open_shard(self, shard: int) -> np.ndarray:
        """Descriptors of a shard, in place.

        Raises:
            InputError: if the file is missing or damaged.
        """
        path = self.descriptors_file(shard)
        rows = min(self.shard_size, self.num_rows - shard * self.shard_size)
        try:
            found = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path} is missing or damaged; delete it, and make the index again") from error
        if found.shape != (rows, self.dim) or found.dtype != np.float16:
            raise InputError(f"{path} holds {found.dtype} {found.shape}, not float16 {(rows, self.dim)}; delete it")
        return found

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first row and float32 descriptors (rows, dim) of one part after another."""
        for shard in range(self.num_shards):
            part = self.open_shard(shard)
            for start in range(0, len(part), BLOCK):
                yield shard * self.shard_size + start, part[start : start + BLOCK].astype(np.float32)

    def descriptors(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Descriptors of some rows, float32 (rows, dim)."""
        wanted = np.asarray(rows, int)
        found = np.empty((len(wanted), self.dim), np.float32)
        for shard in np.unique(wanted // self.shard_size):
            places = np.flatnonzero(wanted // self.shard_size == shard)
            found[places] = self.open_shard(int(shard))[wanted[places] - shard * self.shard_size]
        return found

    def readable_rows(self) -> np.ndarray:
        """Rows that have a descriptor, (pictures,)."""
        parts = [start + np.flatnonzero(np.isfinite(block[:, 0])) for start, block in self.blocks()]
        return np.concatenate(parts)

    def shard_entries(self, shard: int) -> list[Entry]:
        """What the rows of a shard are.

        Raises:
            InputError: if the file is missing or damaged.
        """
        path = self.entries_file(shard)
        try:
            with path.open(encoding="utf-8") as file:
                return [Entry.of_fields(json.loads(line)) for line in file]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is missing or damaged; make the index again in another --output") from error

    def entries(self, rows: Iterable[int]) -> dict[int, Entry]:
        """What some rows are; the shards that they lie in are read one by one."""
        wanted = sorted({int(row) for row in rows})
        found: dict[int, Entry] = {}
        for shard in dict.fromkeys(row // self.shard_size for row in wanted):
            some = self.shard_entries(shard)
            first = shard * self.shard_size
            found |= {row: some[row - first] for row in wanted if row // self.shard_size == shard}
        return found

    def refuse_other(self, settings: Mapping[str, Any], remedy: str) -> None:
        """
        Args:
            settings: that have to be the index's; of those that are named here only.
            remedy: end of the message.

        Raises:
            InputError: if one is another.
        """
        changed = [change_text(n, self.settings, settings) for n in differing(self.settings, settings, settings)]
        if changed:
            raise InputError(f"{self.folder} was made with other settings ({', '.join(changed)}); {remedy}")


def write_header(folder: Path, header: Mapping[str, Any]) -> StoredIndex:
    write_text(folder / HEADER, json.dumps(header, indent=1) + "\n")
    return StoredIndex(folder, header)


def read_header(folder: Path) -> StoredIndex:
    """An index that is finished or under way.

    Raises:
        InputError: if there is none.
    """
    path = folder / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
        found = StoredIndex(folder, header)
        if not (found.num_rows > 0 and found.dim > 0 and found.shard_size > 0 and found.identity):
            raise ValueError("counts")
    except OSError as error:
        raise InputError(f"{folder} is no index: it has no {HEADER}; tools/index_training_set.py makes one") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not say what the index is of; make the index again in another folder") from error
    return found


def open_index(folder: Path) -> StoredIndex:
    """A finished index.

    Raises:
        InputError: if there is none, or it is not finished.
    """
    found = read_header(folder)
    if found.header.get("unreadable") is None:
        raise InputError(f"the index in {folder} is not finished; the same command that began it goes on")
    return found
