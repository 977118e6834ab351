"""Results files: JSON lines, a row per prompt, that survive a kill and are written by one process or by many."""

import contextlib
import json
import os
import platform
import subprocess
from glob import escape
from importlib import metadata
from pathlib import Path

from memorization.bundled import ROOT
from memorization.errors import InputError
from memorization.files.whole import WAY_OUT, make_folder, replacing, write_text
from memorization.rows import is_whole


class ResultsFile:
    """Append-only JSON lines, one row per prompt; a run that was cut off goes on.

    The settings that decide the numbers sit beside it in `<name>.config.json`. A file made under other
    settings is refused rather than mixed. With several processes each appends to a shard of its own,
    `<name>.jsonl.shardN`; `merge` puts them into the one file, at the end or when the next run starts.

    Attributes:
        done: keys of the finished rows.
    """

    def __init__(self, path, settings, overwrite=False, shard=None, key="index", check=None):
        """
        Args:
            check: from a row to the name of a column that is missing or of another type; None where all is well.
            shard: number of this process where there are several; None writes the file itself.

        Raises:
            InputError: if the file holds rows of other settings, naming each difference, or is damaged.
        """
        self.path, self.key, self.check = Path(path), key, check
        self.target = self.path if shard is None else Path(f"{path}.shard{shard}")
        self.settings = json.loads(json.dumps(settings))  # as they come back: tuples are lists there
        self.config = self.path.with_suffix(".config.json")
        self.replace = overwrite  # done by `begin`, so that a run refused before it loses nothing
        make_folder(self.path.parent)
        if self.config.exists() and not overwrite:
            refuse_other_settings(self.path, read_settings(self.config), self.settings)
        elif self.path.exists() and not overwrite:
            raise InputError(f"{self.path} has no {self.config.name} that says how it was made; {WAY_OUT}")
        self.places = {} if overwrite else self.find_rows([self.path])
        self.done = set(self.places)

    def shards(self):
        return sorted(self.path.parent.glob(f"{escape(self.path.name)}.shard*"))  # a run may be called `*`

    def find_rows(self, paths):
        """Where each key's row is, a dict to (path, offset, length); the first of several counts."""
        places = {}
        for path in paths:
            drop_torn_line(path)
            for number, (offset, line) in enumerate(lines_of(path), 1):
                places.setdefault(self.parse(path, number, line)[self.key], (path, offset, len(line)))
        return places

    def parse(self, path, number, line):
        try:
            row = json.loads(line, parse_constant=refuse_constant)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or not is_whole(row.get(self.key)):
            raise InputError(f"{path}, line {number}: not a row with {self.key}; {WAY_OUT}")
        fault = self.check(row) if self.check is not None else None
        if fault is not None:
            raise InputError(f"{path}, line {number}: {fault} is missing or is not what a run writes; {WAY_OUT}")
        return row

    def begin(self):
        """Write the settings and, to overwrite, drop the old rows; one process does it, before the first row."""
        if self.replace:
            for path in (self.path, *self.shards()):
                path.unlink(missing_ok=True)
        if self.replace or not self.config.exists():
            record = {"settings": self.settings, "versions": versions(), "higher_is_memorized": True}
            write_text(self.config, json.dumps(record, indent=2) + "\n")
        self.replace = False

    def add(self, *rows):
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

    def to_line(self, row):
        try:
            return json.dumps(row, allow_nan=False) + "\n"
        except ValueError as error:
            raise InputError(
                f"prompt {row[self.key]}: the numbers of its row are NaN or infinite; use --dtype float32, or smaller "
                "values of --guidance_scale and the strengths"
            ) from error

    def rows(self):
        """Yield the rows of the file, one at a time; a half-written last line, left by a kill, is cut off."""
        if self.replace or not self.path.exists():
            return
        drop_torn_line(self.path)
        for number, (_, line) in enumerate(lines_of(self.path), 1):
            yield self.parse(self.path, number, line)

    def row(self, key):
        """The row of one key, after `merge`."""
        path, offset, length = self.places[key]
        with path.open("rb") as file:
            file.seek(offset)
            return json.loads(file.read(length))

    def merge(self):
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

    def rewrite(self, keys):
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


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def drop_torn_line(path):
    """Cut a last line without its end off a file, if it has one."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                end = start + found + 1
                break
            end = start
        if end != size:
            file.truncate(end)


def lines_of(path):
    """Yield (offset, line) of a file, line ends included; nothing where there is no file."""
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for line in file:
            yield offset, line
            offset += len(line)


def write_all(file, data):
    """Write to an unbuffered file, which may take less than all at once."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def read_settings(config):
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))["settings"]
        if not isinstance(settings, dict):
            raise TypeError("settings have names")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{config} does not say how its rows were made; {WAY_OUT}") from error
    return settings


def refuse_other_settings(path, old, new):
    differences = [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise InputError(f"{path} was made with other settings ({', '.join(differences)}); {WAY_OUT}")


def versions():
    """Versions of what the numbers depend on, for the record; they are not compared."""
    packages = {}
    for name in ("torch", "diffusers", "transformers", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {"python": platform.python_version(), **packages, "commit": git_commit(ROOT)}


def git_commit(folder):
    """Short commit of the repository that is this folder; None without git or where it is no repository."""
    # The ceiling keeps a copy inside somebody else's repository from taking that one's commit.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(folder).parent)}
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        git = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() if git.returncode == 0 else None
