"""Pictures that lie within other files, opened as if they were files of their own."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class PackedFile:
    """A file within an uncompressed archive: some bytes of it, and what they are called there."""

    path: Path
    name: str
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{self.path}, {self.name}"

    def open(self, mode: str = "rb") -> BinaryIO:
        """
        Raises:
            OSError: if the archive is gone, or shorter than it was.
        """
        assert mode == "rb"
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read(self.length)
        if len(data) < self.length:
            raise OSError(f"{self.path} ends within {self.name}")
        return io.BytesIO(data)


@dataclass(frozen=True)
class ParquetCell:
    """Bytes in a row of a Parquet file, under a column or a field of one."""

    path: Path
    column: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}, {self.column} of row {self.row}"

    def open(self, mode: str = "rb") -> BinaryIO:
        """
        Raises:
            OSError: if there are no bytes.
        """
        assert mode == "rb"
        state = self.path.stat()
        stamp = (state.st_mtime_ns, state.st_size)
        group = bisect_right(group_starts(self.path, stamp), self.row) - 1
        cells = read_group(self.path, stamp, group, self.column)
        place = self.row - group_starts(self.path, stamp)[group]
        value = cells[place].as_py() if place < len(cells) else None
        value = value.get("bytes") if isinstance(value, dict) else value
        if not value:
            raise OSError(f"{self} holds no picture")
        return io.BytesIO(value)


@lru_cache(maxsize=1)
def group_starts(path: Path, stamp: tuple[int, int]) -> tuple[int, ...]:
    """The first rows of a Parquet file's row groups."""
    from pyarrow import parquet

    metadata = parquet.read_metadata(path)
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return (0, *accumulate(counts[:-1]))


@lru_cache(maxsize=1)  # no more: a group may hold gigabytes of pictures, which are read in their order
def read_group(path: Path, stamp: tuple[int, int], group: int, column: str) -> Sequence[Any]:
    """A column of a row group as pyarrow has it; empty where the file has no such column.

    Args:
        stamp: time and size of the file, so that one that was written anew is read anew.
    """
    from pyarrow import parquet

    table = parquet.ParquetFile(path).read_row_group(group, columns=[column])
    return table.column(0) if table.num_columns else ()


PictureFile = Path | PackedFile | ParquetCell  # what `read_pixels` opens
