"""Figures of copies: generated images beside the training pictures that they are nearest to."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.evaluation.judged_images import Line
from memorization.files.whole import read_png
from memorization.finished_runs import Run
from memorization.report.theme import grid, show

SHOWN_PAIRS = 6


def nearest_pairs(lines: Sequence[Line]) -> list[Line]:
    """Of each prompt the image that is nearest to a training picture, those of the nearest prompts first."""
    found: dict[str, Line] = {}
    for line in sorted(lines, key=lambda line: -line["cosine"]):
        found.setdefault(line["prompt"], line)
    return list(found.values())[:SHOWN_PAIRS]


def pairs_figure(lines: Sequence[Line], runs: Sequence[Run], records: Mapping[int, PromptRecord]) -> Figure:
    """Generated images above, and below each a training picture of the prompt whose picture is the nearest.

    Args:
        lines: of `nearest_pairs`.
        runs: that they are of.
        records: with training pictures, by prompt index.
    """
    figure, axes = grid(2, len(lines), 1.9, 2.2)
    files = {run.key: run.files for run in runs}
    for column, line in zip(axes.T, lines, strict=True):
        image = read_png(files[line["run"]].image(line["index"], line["seed"]))
        show(column[0], image, f"{line['cosine']:.2f}{', a copy' if line['is_copy'] else ''}")
        column[0].set_xlabel(f"“{line['prompt'][:30]}”", fontsize=7)
        show(column[1], read_image(records[line["nearest_index"]].reference_images[0]), "training")
    return figure
