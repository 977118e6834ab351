"""What the scripts share: input errors, files that are whole or not there, images, tables."""

import contextlib
import errno
import sys

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


def first_line(error):
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
