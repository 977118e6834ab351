"""Content of a data set: what runs on it are tied to, wherever it lies."""

import os
from pathlib import Path

from memorization.data.sources import find_path
from memorization.identity import content_of_files

LEFT_OUT = ("gt_masks",)  # folders that decide no row of a run: true masks are read when it is evaluated
TIMEOUT = 10  # seconds that the hub may take
NOTES = (".md", ".license")  # suffixes of files about the data


def dataset_content(dataset: str) -> str | None:
    """Content of a data set's prompts and pictures; None of `random`, which the model and the seed decide.

    Raises:
        InputError: if there is none of this name.
    """
    path = None if dataset == "random" else find_path(dataset)
    if path is None:
        return None if dataset == "random" else hub_commit(dataset)
    if path.is_file():
        return content_of_files([path])
    return content_of_files(deciding_files(path), path)


def deciding_files(folder: Path) -> list[Path]:
    """All files of a data set's folder but hidden ones, true masks and notes."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix.lower() not in NOTES)
    parts = ((p, p.relative_to(folder).parts) for p in paths)
    return [p for p, names in parts if names[0] not in LEFT_OUT and not any(n.startswith(".") for n in names)]


def hub_commit(dataset: str) -> str | None:
    """Commit of a data set of the hub, as the cache has it or else the hub says; None where neither does.

    What is streamed leaves nothing in the cache.
    """
    from huggingface_hub import HfApi, constants

    folder = f"datasets--{dataset.replace('/', '--')}"
    try:
        return f"commit:{(Path(os.fspath(constants.HF_HUB_CACHE)) / folder / 'refs' / 'main').read_text().strip()}"
    except OSError:
        pass
    try:
        return f"commit:{HfApi().dataset_info(dataset, timeout=TIMEOUT).sha}"
    except Exception:  # no network, or no such data set, which whoever reads it tells
        return None
