"""What a dose of duplication looks like: training pictures, each beside what the model makes of its caption."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.dose_curves import Group
from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.finished_runs import Run
from memorization.report.theme import grid, show, theme

PROMPTS, IMAGES = 4, 2  # of a dose
PANEL = 0.95  # inches


def dose_sheet(run: Run, records: Mapping[int, PromptRecord], groups: Mapping[int, Group], kind: str) -> Figure:
    """A row for each dose, the highest first: the first prompts, a training picture and the first images of each.

    Args:
        kind: of the prompts that are shown.
    """
    doses = sorted({group.dose for group in groups.values() if group.kind == kind}, reverse=True)
    rows = {row["index"]: row for row in run.rows}
    with theme():
        figure, axes = grid(len(doses), PROMPTS * (1 + IMAGES), PANEL, PANEL)
        for line, dose in zip(axes, doses, strict=True):
            shown = [index for index in sorted(rows) if groups[index] == Group(kind, dose)][:PROMPTS]
            for k, axis in enumerate(line):
                place = k // (1 + IMAGES)
                if place < len(shown):
                    show_one(axis, run, rows[shown[place]], records[shown[place]], k % (1 + IMAGES))
                else:
                    axis.set_visible(False)
            line[0].set_ylabel(f"dose {dose}")
        for k, axis in enumerate(axes[0]):
            axis.set_title("generated" if k % (1 + IMAGES) else "trained on", fontsize=7)
    return figure


def show_one(axis: Axes, run: Run, row: Mapping, record: PromptRecord, place: int) -> None:
    """The training picture in the first place, framed; generated images in the others."""
    image = read_image(record.reference_images[0]) if place == 0 else np.asarray(run.image(row, place - 1))
    show(axis, image)
    for spine in axis.spines.values():
        spine.set(visible=place == 0, linewidth=1.5)
