"""Results in columns, as Parquet: a file for every finished part of the prompts, and in the end one of all, in order.

A row is a prompt: its index, its words and a score of each of its images, (images,) float32.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from memorization.errors import InputError, first_line
from memorization.files.column_rows import COLUMNS, SCORE, ColumnRows
from memorization.files.whole import make_folder, replacing
from memorization.sequences import MadeSequence

PART_NAME = re.compile(r"(\d{12})-(\d{12})\.parquet")
GROUP_ROWS = 2**16  # of a row group of the whole; what merging holds at a time

Part = tuple[int, int]  # the first place in the data set, and one past the last


class ColumnParts:
    """The finished parts of a run in a folder; names say which places they cover, so that none is opened to go on."""

    def __init__(self, folder: Path, num_images: int):
        self.folder = make_folder(folder)
        self.schema = pa.schema(
            [("index", pa.int64()), ("prompt", pa.string()), (SCORE, pa.list_(pa.float32(), num_images))]
        )

    def path(self, part: Part) -> Path:
        return self.folder / f"{part[0]:012d}-{part[1]:012d}.parquet"

    def finished(self) -> set[Part]:
        names = (PART_NAME.fullmatch(p.name) for p in self.folder.iterdir())
        return {(int(name[1]), int(name[2])) for name in names if name}

    def clear(self) -> None:
        for path in self.folder.glob("*.parquet*"):
            path.unlink()

    def write(self, part: Part, prompts: Sequence[tuple[int, str]], scores: np.ndarray) -> None:
        """Write one part, whole or not at all.

        Args:
            prompts: (index, words) of the rows, which may be fewer than the places.
            scores: float32 (rows, images).
        """
        lists = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])
        columns = [[index for index, _ in prompts], [words for _, words in prompts], lists]
        with replacing(self.path(part)) as temporary:
            self.write_tables(temporary, [pa.table(columns, schema=self.schema)])

    def write_tables(self, path: Path, tables: Iterable[pa.Table]) -> None:
        """A row group for each table."""
        with parquet.ParquetWriter(path, self.schema, compression="zstd", use_dictionary=False) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=len(table) or None)

    def merge(self, path: Path, parts: Sequence[Part]) -> None:
        """Write the rows of some parts, in their order, into one file; other parts, of a shorter run, are removed."""
        for part in self.finished() - set(parts):
            self.path(part).unlink()
        with replacing(path) as temporary:
            self.write_tables(temporary, self.gathered(parts))

    def gathered(self, parts: Iterable[Part]) -> Iterator[pa.Table]:
        held: list[pa.Table] = []
        for part in parts:
            held.append(read_table(self.path(part)))
            if sum(map(len, held)) >= GROUP_ROWS:
                yield pa.concat_tables(held)
                held = []
        if held:
            yield pa.concat_tables(held)


def read_table(path: Path) -> pa.Table:
    """
    Raises:
        InputError: if a file does not hold what a screen writes.
    """
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own are of these kinds
        raise InputError(f"{path} is not a readable Parquet file ({first_line(error)})") from error
    wanted = (pa.types.is_int64, pa.types.is_string, pa.types.is_fixed_size_list)
    names = table.column_names
    if tuple(names) != COLUMNS or not all(is_it(f.type) for is_it, f in zip(wanted, table.schema, strict=True)):
        raise InputError(f"{path} is no result of detect_mem.py --screen: its columns are {', '.join(names) or 'none'}")
    return table


def row_groups(path: Path) -> Iterator[pa.Table]:
    """A file's row groups, one at a time."""
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


class Words(MadeSequence[str]):
    """The strings of a column, which stay in it."""

    def __init__(self, column: pa.ChunkedArray):
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def item(self, place: int) -> str:
        return self.column[place].as_py()


def read_rows(path: Path, seeds: Sequence[int]) -> ColumnRows:
    """The rows of a file, which stay columns.

    Args:
        seeds: of the images of every row.

    Raises:
        InputError: if the file does not hold what a screen writes, of so many images.
    """
    table = read_table(path)
    flat = [np.asarray(chunk.flatten()) for chunk in table[SCORE].chunks]
    scores = np.concatenate(flat) if flat else np.empty(0, np.float32)
    if len(scores) != len(table) * len(seeds) or not np.isfinite(scores).all():
        raise InputError(f"{path}: {SCORE} is not {len(seeds)} finite numbers a row; screen again")
    scores = scores.reshape(len(table), len(seeds))
    return ColumnRows(table["index"].to_numpy(), Words(table["prompt"]), scores, list(seeds))
