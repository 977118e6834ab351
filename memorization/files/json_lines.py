"""Results files: JSON lines, a row per prompt, that survive a kill and are written by one process or by many."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import IO

from memorization.errors import InputError
from memorization.files.config import config_path, former_settings, versions, write_config
from memorization.files.whole import WAY_OUT, make_folder, opened_text, replacing
from memorization.seeds import is_whole

Place = tuple[Path, int, int]  # file, offset and length of a row
BLOCK = 65536  # bytes that are looked through at once for the last line's end


class ResultsFile:
    """Append-only JSON lines, one row per prompt; a run that was cut off goes on.

    The settings that decide the numbers sit beside it in `<name>.config.json`. A file made under other
    settings is refused rather than mixed. With several processes each appends to a shard of its own,
    `<name>.jsonl.shardN`; `merge` puts them into the one file, at the end or when the next run starts.

    Attributes:
        done: keys of the finished rows.
        settings: as they come back from the file beside it.
        former: the settings that the rows were begun with; None of a new file.
    """

    def __init__(
        self,
        path: Path | str,
        settings: Mapping[str, object],
        overwrite: bool = False,
        shard: int | None = None,
        key: str = "index",
        check: Callable[[Mapping], str | None] | None = None,
    ):
        """
        Args:
            check: from a row to the name of a column that is missing or of another type; None where all is well.
            shard: number of this process where there are several; None writes the file itself.
            key: column of whole numbers that names a row.

        Raises:
            InputError: if the file holds rows of other settings, naming each difference, or is damaged.
        """
        self.path, self.key, self.check = Path(path), key, check
        self.target = self.path if shard is None else Path(f"{path}.shard{shard}")
        self.settings = json.loads(json.dumps(settings))  # as they come back: tuples are lists there
        self.config = config_path(self.path)
        self.former: Mapping[str, object] | None = None
        self.replace = overwrite  # done by `begin`, so that a run refused before it loses nothing
        make_folder(self.path.parent)
        if self.config.exists() and not overwrite:
            self.former = former_settings(self.config, self.settings, self.path)
        elif self.path.exists() and not overwrite:
            raise InputError(f"{self.path} has no {self.config.name} that says how it was made; {WAY_OUT}")
        self.places: dict[int, Place] = {} if overwrite else self.find_rows([self.path])
        self.done = set(self.places)

    def shards(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{escape(self.path.name)}.shard*"))  # a run may be called `*`

    def find_rows(self, paths: Iterable[Path]) -> dict[int, Place]:
        """Where each key's row is; the first of several counts."""
        places: dict[int, Place] = {}
        for path in paths:
            drop_torn_line(path)
            for number, (offset, line) in enumerate(lines_of(path), 1):
                places.setdefault(self.parse(path, number, line)[self.key], (path, offset, len(line)))
        return places

    def parse(self, path: Path, number: int, line: bytes) -> dict:
        try:
            row = decode_line(path, number, line, finite=True)
        except InputError:
            row = None
        if not isinstance(row, dict) or not is_whole(row.get(self.key)):
            raise InputError(f"{path}, line {number}: not a row with {self.key}; {WAY_OUT}")
        fault = self.check(row) if self.check is not None else None
        if fault is not None:
            raise InputError(f"{path}, line {number}: {fault} is missing or is not what a run writes; {WAY_OUT}")
        return row

    def begin(self) -> None:
        """Write the settings and, to overwrite, drop the old rows; one process does it, before the first row."""
        if self.replace:
            for path in (self.path, *self.shards()):
                path.unlink(missing_ok=True)
        if self.replace or not self.config.exists():
            write_config(self.config, self.settings, versions())
        self.replace = False

    def add(self, *rows: Mapping) -> None:
        """Append rows, those of one key at most once; after an error the file is as long as before.

        Raises:
            InputError: if a row holds NaN or infinity, which JSON does not have and no score may be.
        """
        if not self.config.exists() or self.replace:
            self.begin()
        new = [row for row in rows if row[self.key] not in self.done]
        data = "".join(self.to_line(row) for row in new).encode()
        with self.target.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            try:
                write_all(file, data)
            except OSError:
                file.truncate(start)
                raise
        self.done |= {row[self.key] for row in new}

    def to_line(self, row: Mapping) -> str:
        try:
            return json.dumps(row, allow_nan=False) + "\n"
        except ValueError as error:
            raise InputError(
                f"prompt {row[self.key]}: the numbers of its row are NaN or infinite; use --dtype float32, or smaller "
                "values of --guidance_scale and the strengths"
            ) from error

    def rows(self) -> Iterator[dict]:
        """Yield the rows of the file, one at a time; a half-written last line, left by a kill, is cut off."""
        if self.replace or not self.path.exists():
            return
        drop_torn_line(self.path)
        for number, (_, line) in enumerate(lines_of(self.path), 1):
            yield self.parse(self.path, number, line)

    def row(self, key: int) -> dict:
        """The row of one key, after `merge`."""
        path, offset, length = self.places[key]
        with path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.read(length))

    def merge(self) -> None:
        """Bring all finished rows into the one file, in the order of their keys, and drop the shards.

        Rows are copied one at a time. A kill leaves the old file and the shards, or the new file and
        perhaps shards whose rows it has, which the next call drops.
        """
        if self.replace:
            return
        shards = self.shards()
        if self.done != self.places.keys():  # rows were added since the file was read
            self.places = self.find_rows([self.path])
        self.places = self.places | {k: p for k, p in self.find_rows(shards).items() if k not in self.places}
        self.done = set(self.places)
        if shards or list(self.places) != sorted(self.places):
            self.rewrite(sorted(self.places))
        for path in shards:
            path.unlink(missing_ok=True)

    def rewrite(self, keys: Iterable[int]) -> None:
        """Write the rows of these keys, in this order, in place of the file."""
        files = {path: path.open("rb") for path in {place[0] for place in self.places.values()}}
        places, offset = {}, 0
        try:
            with replacing(self.path) as temporary, temporary.open("wb") as out:
                for key in keys:
                    path, start, length = self.places[key]
                    files[path].seek(start)
                    out.write(files[path].read(length))
                    places[key] = (self.path, offset, length)
                    offset += length
        finally:
            for file in files.values():
                file.close()
        self.places = places


def numbered_lines(path: Path, finished_only: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file one at a time, with their numbers from 1 on.

    Args:
        finished_only: leave out a last line without its end, of a run that was cut off.

    Raises:
        InputError: if the file cannot be read or is not UTF-8.
    """
    # A file's own lines, not splitlines: captions may hold U+2028 and other characters that it takes for line ends.
    with opened_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.endswith("\n") or not finished_only:
                yield number, line.removesuffix("\n")


def decode_line(path: Path, number: int, line: str | bytes, finite: bool = False) -> object:
    """The value that one line of a file holds.

    Args:
        finite: refuse NaN and Infinity, which JSON does not have and Python reads all the same.

    Raises:
        InputError: if the line is not JSON.
    """
    try:
        return json.loads(line, parse_constant=refuse_constant if finite else None)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not JSON ({error})") from error


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def drop_torn_line(path: Path) -> None:
    """Cut a last line without its end off a file, if it has one."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - BLOCK)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            file.truncate(end)


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, line) of a file, line ends included; nothing where there is no file."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write to an unbuffered file, which may take less than all at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
