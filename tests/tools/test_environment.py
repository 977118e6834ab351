"""tools/environment.sh, with an interpreter that only notes what it is asked for: when it installs, and what."""

import shutil
import subprocess

import pytest

from memorization.bundled import ROOT

STUB = """#!/usr/bin/env bash
echo "$*" >>"$LOG"
if [[ $1 == -c && $2 == *version_info* ]]; then exit "${OLD:-0}"; fi
if [[ $* == *".[lora]"* ]]; then exit "${NO_LORA:-0}"; fi
if [[ $1 == -m && $2 == venv ]]; then mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; fi
"""


@pytest.fixture
def clone(tmp_path):
    """A clone that has what the script looks at; `set_up(**environment)` gives what was asked of pip."""
    folder = tmp_path / "clone"
    (folder / "tools").mkdir(parents=True)
    for name in ("tools/environment.sh", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    stub = tmp_path / "python"
    stub.write_text(STUB)
    stub.chmod(0o755)
    return folder


def set_up(folder, **environment):
    log = folder.parent / "log"
    log.write_text("")
    told = {"PATH": "/usr/bin:/bin", "PYTHON": str(folder.parent / "python"), "LOG": str(log)}
    command = ["bash", "-c", "set -euo pipefail; source tools/environment.sh; [[ -x $python ]]"]
    done = subprocess.run(command, cwd=folder, env=told | environment, capture_output=True, text=True)
    asked = [line.split("--disable-pip-version-check ")[1] for line in log.read_text().splitlines() if "pip" in line]
    return done, asked


USUAL = ["-r requirements.txt", "--no-deps -e . --no-build-isolation"]


def test_it_installs_once_and_again_when_something_changed(clone):
    assert set_up(clone)[1] == USUAL and set_up(clone)[1] == []
    for name in ("requirements.txt", "pyproject.toml"):
        with (clone / name).open("a") as file:
            file.write("# changed\n")
        assert set_up(clone)[1] == USUAL and set_up(clone)[1] == []
    moved = clone.rename(clone.parent / "moved")
    assert set_up(moved)[1] == USUAL


def test_what_the_tests_need_is_installed_beside_and_not_for_the_quickstart(clone):
    dev = {"REQUIREMENTS": "requirements-dev.txt"}
    set_up(clone)
    assert set_up(clone, **dev)[1][0] == "-r requirements-dev.txt"
    assert set_up(clone)[1] == [] and set_up(clone, **dev)[1] == []
    (clone / "requirements-dev.txt").write_text("-r requirements.txt\n")
    assert set_up(clone)[1] == [] and set_up(clone, **dev)[1] != []


def test_an_extra_is_installed_once_and_gone_on_without_where_it_cannot_be_had(clone):
    lora, asked = {"EXTRA": "lora"}, ["-e .[lora] --no-build-isolation"]
    done, told = set_up(clone, **lora, NO_LORA="1")
    assert done.returncode == 0 and told == USUAL + asked
    assert done.stderr == "warning: the extra lora could not be installed; going on without it\n"
    assert set_up(clone, **lora)[1] == asked
    assert set_up(clone, **lora)[1] == set_up(clone)[1] == []
    (clone / "pyproject.toml").write_text("# changed\n")
    assert set_up(clone)[1] == USUAL and set_up(clone, **lora)[1] == asked


def test_an_old_interpreter_is_refused_in_one_line(clone):
    done, asked = set_up(clone, OLD="1")
    assert done.returncode == 2 and not asked
    assert "is not Python 3.10 or newer; set PYTHON" in done.stderr and done.stderr.count("\n") == 1
