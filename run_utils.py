"""What both scripts share: results files, resume, versions, output folders, tables."""

import contextlib
import errno
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent
WAY_OUT = "choose another --run_name or pass --overwrite"


WRITE_ERRORS = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR,
    errno.EEXIST, errno.ENAMETOOLONG,
)  # fmt: skip


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line and says what to do."""


@contextlib.contextmanager
def exit_on_input_error():
    """End the program with one line and exit code 2 on bad input or an output that cannot be written."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        fail(f"cannot write {error.filename or 'output'}: {error.strerror}; what is finished is kept")


def fail(message):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(2)


@contextlib.contextmanager
def input_errors():
    """Turn the ValueErrors of library modules into InputError, where the user's input is their cause."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def image_seed(gen_seed, index, k):
    """Seed of image k of the prompt with this index; readable as gen_seed, index, k in decimal.

    Torch's CPU generator reads the low 32 bits: within a run all images differ (up to index 4 million),
    but runs whose gen_seeds are 43 or more apart can share noise at indices in the thousands.
    """
    return gen_seed * 10**8 + index * 10**3 + k


def make_folder(path, option="--output_dir"):
    """Create an output folder and make sure that files can be written to it; `option` is the one that names it.

    Raises:
        InputError: if not.
    """
    path = Path(path)
    probe = path / ".write_test"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another {option}") from error
    return path


@contextlib.contextmanager
def replacing(path):
    """Temporary path that takes the place of `path` at the end: a kill leaves the old file or the new one.

    After an error, as of a full disk, the temporary file is removed and the old one stays.
    """
    temporary = Path(f"{path}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text):
    """Write text through a temporary file."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_png(path, image):
    """Save a uint8 array (height, width, 3) as PNG, through a temporary file."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def stream_images_npz(path, png_paths):
    """Collect PNGs into one npz with key `images`, uint8 (images, height, width, 3), one at a time.

    Raises:
        InputError: if a PNG cannot be read, or is of another size than the first.
    """
    shape = read_png(png_paths[0]).shape
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(png_paths), *shape)}
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array_header_1_0(out, header)
            for png in png_paths:
                image = read_png(png)
                if image.shape != shape:
                    sizes = f"is {image.shape}, {png_paths[0]} is {shape}"
                    raise InputError(f"images of one run differ in size: {png} {sizes}; {WAY_OUT}")
                out.write(image.tobytes())


def read_png(path):
    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        raise InputError(f"{path} is not a readable image; {WAY_OUT}") from error


def replace_link(path, name):
    """Make `name` another name of the file at `path`, replacing what it named; a copy where links are not to be had."""
    temporary = Path(f"{name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)
    return name


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


class ResultsFile:
    """Append-only JSON lines, one row per prompt; a run that was cut off goes on.

    The settings that decide the numbers sit beside it in `<name>.config.json`. A file made under other
    settings is refused rather than mixed.
    """

    def __init__(self, path, settings, key="index", overwrite=False):
        """
        Raises:
            InputError: if the file holds rows of other settings, naming each difference, or is damaged.
        """
        self.path, self.key = Path(path), key
        self.settings = json.loads(json.dumps(settings))  # as they come back: tuples are lists there
        self.config = self.path.with_suffix(".config.json")
        self.replace = overwrite  # done with the first row, so that a run refused before it loses nothing
        make_folder(self.path.parent)
        if self.config.exists() and not overwrite:
            refuse_other_settings(self.path, read_settings(self.config), self.settings)
        elif self.path.exists() and not overwrite:
            raise InputError(f"{self.path} has no {self.config.name} that says how it was made; {WAY_OUT}")
        self.done = {row[key] for row in self.rows()}

    def rows(self):
        """Rows written so far; a half-written last line, left by a kill, is cut off the file."""
        if self.replace or not self.path.exists():
            return []
        with self.path.open("rb+") as file:
            data = file.read()
            whole = data.rfind(b"\n") + 1
            if whole != len(data):
                file.truncate(whole)
        return [self.parse(n, line) for n, line in enumerate(data[:whole].splitlines(), 1)]

    def parse(self, number, line):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or self.key not in row:
            raise InputError(f"{self.path}, line {number}: not a row with {self.key}; {WAY_OUT}")
        return row

    def add(self, row):
        """Append a row; the first one brings the settings file with it."""
        if self.replace:
            self.path.unlink(missing_ok=True)
        if self.replace or not self.config.exists():
            record = {"settings": self.settings, "versions": versions(), "higher_is_memorized": True}
            write_text(self.config, json.dumps(record, indent=2) + "\n")
            self.replace = False
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.done.add(row[self.key])


def read_settings(config):
    try:
        return dict(json.loads(config.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{config} does not say how its rows were made; {WAY_OUT}") from error


def refuse_other_settings(path, old, new):
    differences = [
        f"{name} {old.get(name)!r} -> {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise InputError(f"{path} was made with other settings ({', '.join(differences)}); {WAY_OUT}")


def format_table(headers, rows):
    """A Markdown table with aligned columns; floats with three decimals."""
    cells = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in [headers, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table of results with what has to stand over and under it; a page folds those that are `detail`."""

    caption: str
    headers: list
    rows: list
    note: str = ""
    detail: bool = False

    def markdown(self):
        parts = [f"### {self.caption}", format_table(self.headers, self.rows) if self.rows else "", self.note]
        return "\n\n".join(part for part in parts if part)
