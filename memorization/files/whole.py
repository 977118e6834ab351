"""Files that are whole or not there: text, images, links and folders, for one run at a time."""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TextIO, cast

import numpy as np
from PIL import Image

from memorization.errors import InputError
from memorization.files.pixels import read_pixels

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

WAY_OUT = "choose another --run_name or pass --overwrite"


def make_folder(path: Path | str, option: str = "--output_dir") -> Path:
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


@contextlib.contextmanager
def made_folder(path: Path, option: str = "--output_dir") -> Iterator[Path]:
    """`make_folder` before the work; the folder is gone again where that is refused with nothing written.

    Raises:
        InputError: if files cannot be written to it.
    """
    was_there = path.exists()
    make_folder(path, option)
    try:
        yield path
    except InputError:
        with contextlib.suppress(OSError):  # of a folder that holds something
            if not was_there:
                path.rmdir()
        raise


class FolderLock:
    """Keeps a second run of the same name out of a folder; the system drops the lock when the process ends."""

    def __init__(self, folder: Path, option: str = "--run_name"):
        """
        Args:
            option: that names another folder.

        Raises:
            InputError: if another process holds the lock.
        """
        self.descriptor: int | None = None
        if fcntl is None:
            return
        self.descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise InputError(
                f"another run is writing to {folder}: wait for it or choose another {option}; "
                "several devices share one run by `accelerate launch`"
            ) from error
        except OSError:  # a file system without locks
            self.release()

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
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


def write_text(path: Path | str, text: str) -> None:
    """Write text through a temporary file."""
    write_pieces(path, [text])


def write_pieces(path: Path | str, pieces: Iterable[str]) -> None:
    """Write text that comes in pieces through a temporary file."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(pieces)


@contextlib.contextmanager
def opened_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    r"""A text file to read from, without the byte order mark that some editors put first.

    Args:
        newline: as of `open`: None makes every line end "\n", "" leaves them as they are.

    Raises:
        InputError: if it cannot be read or, from the block that reads it, is not UTF-8.
    """
    try:
        with path.open(encoding="utf-8-sig", newline=newline) as file:
            try:
                yield file
            except UnicodeDecodeError as error:
                read_so_far = cast(BinaryIO, file.buffer).tell()  # what was decoded is what was read last
                place = read_so_far - len(error.object) + error.start
                raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {place}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """Text of a file; see `opened_text`."""
    with opened_text(path) as file:
        return file.read()


def save_png(path: Path, image: np.ndarray) -> None:
    """Save a uint8 array (height, width, 3) as PNG, through a temporary file."""
    with replacing(path) as temporary:
        Image.fromarray(image).save(temporary, format="PNG")


def read_png(path: Path) -> np.ndarray:
    """An image that a run wrote, uint8 (height, width, 3).

    Raises:
        InputError: if it is missing or damaged.
    """
    return read_pixels(path, remedy=WAY_OUT)


def replace_link(path: Path, name: Path) -> Path:
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
