"""How a script ends with an error, and which are the user's."""

import errno

import pytest

from memorization.errors import InputError, exit_on_input_error, first_line


@pytest.mark.parametrize(
    "error",
    [
        InputError("two\nlines"),
        OSError(errno.ENOSPC, "No space left", "out.png"),
        PermissionError(errno.EACCES, "Permission denied", "out.png"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "out.png"),
    ],
    ids=lambda e: type(e).__name__ + str(getattr(e, "errno", "")),
)
def test_bad_input_ends_in_one_line_and_code_2(capsys, error):
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise error
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "I/O error")])
def test_our_own_faults_keep_their_traceback(error):
    with pytest.raises(type(error)), exit_on_input_error():
        raise error


@pytest.mark.parametrize(
    ("error", "line"), [(OSError("\n one\ntwo"), "one"), (ValueError(), "ValueError"), (KeyError(" \n"), "' \\n'")]
)
def test_the_first_line_of_an_exception(error, line):
    assert first_line(error) == line
