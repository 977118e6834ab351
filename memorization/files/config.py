"""The `.config.json` beside a results file: the settings that decide its numbers, and the software's versions."""

import contextlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from memorization.bundled import ROOT
from memorization.errors import InputError
from memorization.files.whole import WAY_OUT, write_text
from memorization.identity import change_text, differing

PACKAGES = ("torch", "diffusers", "transformers", "numpy")


def config_path(rows: Path) -> Path:
    """Where the settings of a results file are."""
    return rows.with_suffix(".config.json")


def write_config(config: Path, settings: Mapping[str, object], versions: Mapping[str, object]) -> None:
    record = {"settings": settings, "versions": versions, "higher_is_memorized": True}
    write_text(config, json.dumps(record, indent=2) + "\n")


def read_config(config: Path, remedy: str) -> tuple[dict, dict]:
    """Settings and versions.

    Raises:
        InputError: if the file is damaged or has neither; `remedy` is what to do about it.
    """
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
        settings, versions = record["settings"], record["versions"]
        if not isinstance(settings, dict) or not isinstance(versions, dict):
            raise TypeError("settings and versions have names")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{config} does not say how its rows were made; {remedy}") from error
    return settings, versions


def former_settings(config: Path, settings: Mapping[str, object], rows: Path) -> dict:
    """The settings that rows were begun with.

    Raises:
        InputError: if they are others than now, naming each difference, or the file is damaged.
    """
    former = read_config(config, WAY_OUT)[0]
    differing = differences(former, settings)
    if differing:
        raise InputError(f"{rows} was made with other settings ({', '.join(differing)}); {WAY_OUT}")
    return former


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Settings that differ, each as `name old -> new`; what is the same by content is so wherever it lies."""
    return [change_text(name, old, new) for name in differing(old, new)]


def versions() -> dict[str, str | None]:
    """Versions of what the numbers depend on, for the record; they are not compared."""
    packages = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {"python": platform.python_version(), **packages, "commit": git_commit(ROOT)}


def git_commit(folder: Path) -> str | None:
    """Short commit of the repository that is this folder; None without git or where it is no repository."""
    # The ceiling keeps a copy inside somebody else's repository from taking that one's commit.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(Path(folder).parent)}
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        git = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    except OSError:
        return None
    return git.stdout.strip() if git.returncode == 0 else None
