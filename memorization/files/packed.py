"""Pictures that lie within other files, opened as if they were files of their own."""

import io
from dataclasses import dataclass
from functools import lru_cache
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
        changed, row = self.path.stat().st_mtime_ns, self.row
        for group, count in enumerate(rows_of_groups(self.path, changed)):
            if row < count:
                table = row_group(self.path, changed, group, self.column).slice(row, 1)
                value = table.column(0)[0].as_py() if table.num_columns else None
                value = value.get("bytes") if isinstance(value, dict) else value
                if not value:
                    break
                return io.BytesIO(value)
            row -= count
        raise OSError(f"{self} holds no picture")


@lru_cache(8)
def rows_of_groups(path: Path, changed: int) -> list[int]:
    """Number of rows of each row group of a Parquet file, as it was at its last change in nanoseconds."""
    from pyarrow import parquet

    metadata = parquet.ParquetFile(path).metadata
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


@lru_cache(2)
def row_group(path: Path, changed: int, group: int, column: str) -> Any:
    """One column of a row group, kept for the rows beside it: reading one row takes as long as reading all."""
    from pyarrow import parquet

    return parquet.ParquetFile(path).read_row_group(group, columns=[column])


PictureFile = Path | PackedFile | ParquetCell  # what `read_pixels` opens
