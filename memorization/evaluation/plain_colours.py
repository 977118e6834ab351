"""Generations of one colour: what a decoder that overflows leaves, and no sign that a copy was hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from memorization.errors import InputError, warn
from memorization.files.whole import read_png
from memorization.finished_runs import Run

SMALL, RATIO = 1000, 50  # bytes of a PNG, beyond which and a share of its pixels' bytes it holds more than one colour
NAMED = 3  # of the images, in the message


def without_plain_colours(runs: Sequence[Run]) -> list[Run]:
    """Runs of the same prompts without the prompts that have an image of one colour in any of them.

    Left out of all runs, so that what is compared stays the same prompts and noise; said in one line per run.

    Raises:
        InputError: if nothing is left to measure.
    """
    left_out: set[int] = set()
    for run in runs:
        found = [(row["index"], path) for row in run.rows for path in plain_images(run, row)]
        if found:
            left_out |= {index for index, _ in found}
            warn(f"{told(run, [path for _, path in found])}: their prompts are left out of all runs")
    if left_out and all(row["index"] in left_out for row in runs[0].rows):
        raise InputError(
            f"every prompt of {runs[0].path} has an image of one colour, as a decoder that overflows leaves: there is "
            "nothing to measure; generate again with --dtype float32"
        )
    if not left_out:
        return list(runs)
    return [replace(run, rows=tuple(row for row in run.rows if row["index"] not in left_out)) for run in runs]


def told(run: Run, paths: Sequence[Path]) -> str:
    """How many images of a run are of one colour, and which."""
    total = sum(len(row["seeds"]) for row in run.rows)
    names = ", ".join(path.name for path in paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    return (
        f"{len(paths)} of {total} images of {run.key} are of one colour ({names}), as a decoder that overflows leaves"
    )


def plain_images(run: Run, row: Mapping) -> list[Path]:
    """Files of a row's images that are of one colour."""
    paths = (run.files.image(row["index"], seed) for seed in row["seeds"])
    return [path for path in paths if path.is_file() and is_plain(path)]


def is_plain(path: Path) -> bool:
    """Whether all pixels of a PNG are alike; a large file is not read, as one colour packs into next to nothing.

    Raises:
        InputError: if it is damaged.
    """
    try:
        with Image.open(path) as image:
            num_bytes = image.width * image.height * 3
    except (OSError, SyntaxError, ValueError):
        num_bytes = 0  # reading it says what is wrong
    if num_bytes and path.stat().st_size > SMALL + num_bytes / RATIO:
        return False
    pixels = read_png(path)
    return bool(np.all(pixels == pixels[:1, :1]))
