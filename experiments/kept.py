"""Numbers of an experiment that come part by part, in one JSON file: a part replaces its own and leaves the others."""

import json
from pathlib import Path
from typing import Any

from memorization.files.whole import write_text
from memorization.tables import parse_results, plain


def kept_results(path: Path) -> dict[str, Any]:
    """What was measured so far, by part; nothing where there is no file yet."""
    return parse_results(path.read_text(encoding="utf-8")) if path.exists() else {}


def add_result(path: Path, part: str, found: object) -> None:
    """Keep what was measured of one part beside what is there of the others."""
    write_text(path, json.dumps(plain(kept_results(path) | {part: found}), indent=1) + "\n")
