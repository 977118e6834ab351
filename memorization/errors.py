"""Errors that are the user's to mend: one line each, and how a script ends with it."""

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import NoReturn

from tqdm import tqdm

WRITE_ERRORS = frozenset(
    (
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOSPC,
        errno.EDQUOT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    )
)


class InputError(Exception):
    """Something the user gave cannot be used; the message is one line and says what to do."""


@contextlib.contextmanager
def exit_on_input_error() -> Iterator[None]:
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


def fail(message: str, code: int = 2) -> NoReturn:
    """End the program with a message on one line of standard error."""
    print("error: " + " ".join(message.split()), file=sys.stderr)
    raise SystemExit(code)


def warn(message: str) -> None:
    """Say something on one line of standard error, above the progress bar where there is one."""
    tqdm.write("warning: " + " ".join(message.split()), file=sys.stderr)


@contextlib.contextmanager
def input_errors() -> Iterator[None]:
    """Turn the ValueErrors of library modules into InputError, where the user's input is their cause."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from error


def first_line(error: BaseException) -> str:
    """What an exception of another library says, on one line; the name of its class where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
