"""What the scripts share: input errors, files that are whole or not there, images, tables."""

import contextlib
import errno
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

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
    """End the program with one line and exit code 2 on bad input, unwritable output or lack of memory."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on", 130)
    except OSError as error:
        if error.errno not in WRITE_ERRORS:
            raise
        fail(f"cannot write {error.filename or 'output'}: {error.strerror}; what is finished is kept")
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ not in ("MemoryError", "OutOfMemoryError"):  # the latter is torch's
            raise
        fail("out of memory; use a smaller --batch_size: the same command with it goes on")


def fail(message, code=2):
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


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
    probe = path / f".write_test_{os.getpid()}"  # several processes may look at the same time
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write to {path}: {error.strerror}; choose another {option}") from error
    except ValueError as error:  # characters that no path can hold
        raise InputError(f"cannot write to {str(path)!r}: {error}; choose another {option}") from error
    return path


class FolderLock:
    """Keeps a second run of the same name out of a folder; the system drops the lock when the process ends."""

    def __init__(self, folder):
        """
        Raises:
            InputError: if another process holds the lock.
        """
        self.descriptor = None
        if fcntl is None:
            return
        self.descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise InputError(
                f"another run is writing to {folder}: wait for it or choose another --run_name; "
                "several devices share one run by `accelerate launch`"
            ) from error
        except OSError:  # a file system without locks
            self.release()

    def release(self):
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


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


def plain(value):
    """The same with NaN as None: JSON has no NaN."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def save_png(path, image):
    """Save a uint8 array (height, width, 3) as PNG, through a temporary file."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


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
    if os.path.exists(name) and os.path.samefile(path, name):  # renaming a link over itself would leave both
        return name
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)
    return name


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
