"""Figures of copies: generated images, below each the training picture that it is nearest to, and its bright ending."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.evaluation.judged_images import Line
from memorization.files.whole import read_png
from memorization.finished_runs import Run
from memorization.report.theme import grid, overlay, show

SHOWN_PAIRS, COLUMNS = 6, 6
ROWS = ("generated", "training", "bright ending")


@dataclass(frozen=True)
class Pair:
    """A generated image and a training picture, uint8 (height, width, 3) each.

    Attributes:
        title, below: stand above the image, and below the lowest of its pictures.
        mask: the image's bright ending, of any size (h, w); None where there is none.
    """

    image: np.ndarray
    picture: np.ndarray
    title: str
    below: str
    mask: np.ndarray | None = None


def pairs_figure(pairs: Sequence[Pair]) -> Figure:
    """A column for each pair, at most `COLUMNS` in a row: the image, the picture and, if any pair has one, the mask."""
    kinds = ROWS if any(pair.mask is not None for pair in pairs) else ROWS[:2]
    columns = min(len(pairs), COLUMNS)
    figure, axes = grid(len(kinds) * -(-len(pairs) // columns), columns, 1.9, 2.05)
    for axis in axes.flat:
        axis.set_axis_off()
    for k, pair in enumerate(pairs):
        first = len(kinds) * (k // columns)
        column = axes[first : first + len(kinds), k % columns]
        for axis, kind in zip(column, kinds, strict=True):
            axis.set_axis_on()
            if k % columns == 0:
                axis.set_ylabel(kind, fontsize=8)
        show(column[0], pair.image, pair.title)
        show(column[1], pair.picture)
        if pair.mask is not None:
            overlay(column[2], pair.image, pair.mask)
        column[-1].set_xlabel(pair.below, fontsize=7)
    return figure


def nearest_pairs(lines: Sequence[Line]) -> list[Line]:
    """Of each prompt the image that is nearest to a training picture, those of the nearest prompts first."""
    found: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: -line["cosine"]):
        found.setdefault(line["prompt"], line)
    return list(found.values())[:SHOWN_PAIRS]


def nearest_figure(lines: Sequence[Line], runs: Sequence[Run], records: Mapping[int, PromptRecord]) -> Figure:
    """Generated images, and below each a training picture of the prompt whose picture is the nearest.

    Args:
        lines: of `nearest_pairs`.
        runs: that they are of.
        records: with training pictures, by prompt index.
    """
    files = {run.key: run.files for run in runs}
    return pairs_figure(
        [
            Pair(
                read_png(files[line["run"]].image(line["index"], line["seed"])),
                read_image(records[line["nearest_index"]].reference_images[0]),
                f"{line['cosine']:.2f}{', a copy' if line['is_copy'] else ''}",
                f"“{line['prompt'][:30]}”",
            )
            for line in lines
        ]
    )
