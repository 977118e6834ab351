"""Pictures that lie within other files, opened as if they were files of their own."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO


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
        from pyarrow import parquet

        file, row = parquet.ParquetFile(self.path), self.row
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if row < count:
                table = file.read_row_group(group, columns=[self.column]).slice(row, 1)
                value = table.column(0)[0].as_py() if table.num_columns else None
                value = value.get("bytes") if isinstance(value, dict) else value
                if not value:
                    break
                return io.BytesIO(value)
            row -= count
        raise OSError(f"{self} holds no picture")


PictureFile = Path | PackedFile | ParquetCell  # what `read_pixels` opens
