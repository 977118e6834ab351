"""A user's own detectors and mitigations: files named by `--plugin`, whose decorators register what they hold."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from memorization.detectors.base import DETECTORS
from memorization.errors import InputError, first_line
from memorization.mitigations.base import MITIGATIONS


def load_plugins(paths: Sequence[Path]) -> None:
    """Import files that hold detectors or mitigations; one that was loaded already is let be.

    Such a file runs as code: load what you trust.

    Raises:
        InputError: if a file is missing, fails, or registers a name that is taken.
    """
    DETECTORS.complete()  # the built-in names first, so that it is the user's own that is refused
    MITIGATIONS.complete()
    for path in paths:
        path = path.resolve()
        name = f"memorization_plugin_{path.stem}"
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__ == str(path):
            continue
        if not path.is_file():
            raise InputError(f"--plugin {path} does not exist; give a Python file with @detector or @mitigation in it")
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"--plugin {path} is not a Python file; its name has to end in .py")
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except InputError as error:
            raise InputError(f"--plugin {path}: {error}") from error
        except Exception as error:  # it is somebody's code: whatever it raises is named with its file
            raise InputError(f"--plugin {path} fails: {type(error).__name__}: {first_line(error)}") from error
        sys.modules[name] = module


def add_plugin_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugin",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.py",
        help="your own detectors and mitigations; may be given several times (it runs as code)",
    )


def load_named_plugins(argv: Sequence[str] | None) -> None:
    """Load what `--plugin` names before the rest of a command line is read, as choices depend on it.

    Raises:
        InputError: as `load_plugins`.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_plugin_option(early)
    load_plugins(early.parse_known_args(argv)[0].plugin)
