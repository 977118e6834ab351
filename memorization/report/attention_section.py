"""The section on attention: pictures that tools/show_attention.py drew, with what it wrote beside them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from memorization.errors import InputError, first_line
from memorization.files.whole import read_text
from memorization.finished_runs import Run
from memorization.report.section import Section, StoredFigure
from memorization.tables import Table

MADE_BY = "make it by tools/show_attention.py"
TOLD = {"prompt": str, "tokens": list, "layers": list, "steps": list, "seed": int, "model_id": str}
LABELS = {True: "memorized", False: "not memorized", None: ""}


def attention_section(pictures: Sequence[Path], runs: Sequence[Run]) -> Section:
    """Where each token of some prompts looks, a picture for each prompt.

    Args:
        pictures: PNGs with a JSON of the same name beside each.
        runs: whose rows say of which prompts it is known whether they are memorized.

    Raises:
        InputError: if a picture or its JSON is missing or is none.
    """
    labels = {row["prompt"]: row.get("is_memorized") for run in runs for row in run.rows}
    figures, rows = [], []
    for path in pictures:
        told = read_told(path)
        label = LABELS.get(labels.get(told["prompt"]), "")
        figures.append(StoredFigure(path.stem, path, caption_of(told, label)))
        steps = ", ".join(str(step + 1) for step in told["steps"])
        rows.append([told["prompt"], label, str(told["seed"]), steps, ", ".join(told["layers"]), told["model_id"]])
    headers = ["prompt", "label", "seed", "steps", "layers", "model"]
    return Section(
        topic="attention",
        title="Attention",
        text="What each token looks at, over the grey image; under it the share of all attention that it gets.",
        tables=[Table("How the tiles were made", headers, rows, detail=True)],
        figures=figures,
    )


def read_told(path: Path) -> Mapping[str, Any]:
    """What is kept beside a picture.

    Raises:
        InputError: one line, if there is no such picture, or nothing of the kind beside it.
    """
    try:
        with Image.open(path) as picture:
            kind = picture.format
    except OSError as error:
        raise InputError(f"--attention {path} is no picture ({first_line(error)}); {MADE_BY}") from error
    if kind != "PNG":
        raise InputError(f"--attention {path} is no PNG; {MADE_BY}")
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise InputError(f"--attention {path} has no {beside.name} beside it; {MADE_BY}")
    try:
        told = json.loads(read_text(beside))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{beside} is not JSON ({first_line(error)}); {MADE_BY}") from error
    if not isinstance(told, dict) or not all(isinstance(told.get(name), cls) for name, cls in TOLD.items()):
        raise InputError(f"{beside} lacks one of {', '.join(TOLD)}; {MADE_BY}")
    return told


def caption_of(told: Mapping[str, Any], label: str) -> str:
    known = f", {label}" if label else ""
    counts = f"{len(told['tokens'])} tiles of {len(told['layers'])} layers and {len(told['steps'])} steps"
    return f"“{told['prompt']}”{known}: {counts}, seed {told['seed']}."
