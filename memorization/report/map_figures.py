"""Figures of maps and masks over images. Each function returns a matplotlib figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from memorization.evaluation.candidate_maps import ALL_STEPS, BRIGHT_ENDING, DIFF, PRODUCT, SHUFFLED, candidate_maps
from memorization.evaluation.localisation import run_maps
from memorization.evaluation.statistics import Result
from memorization.finished_runs import Masks, Run
from memorization.report.theme import COLORS, grid, overlay, show
from memorization.scores import image_scores

SHOWN_MAPS = (BRIGHT_ENDING, ALL_STEPS, PRODUCT)


def steps_figure(by_step: Sequence[np.ndarray], results: Sequence[Result]) -> Figure:
    """Pixel AUROC of noise_diff^2 over the steps, beside that of the bright ending and of its shuffled control.

    Args:
        by_step: of `auroc_by_step`: each step alone, and averaged up to it.
        results: of `evaluate_localisation`.
    """
    figure, axes = grid(1, 1, 5.2, 3.4)
    axis, steps = axes[0, 0], np.arange(1, len(by_step[0]) + 1)
    for color, values, what in zip(COLORS, by_step, ("this step alone", "mean of the steps so far"), strict=False):
        axis.plot(steps, values, color=color, label=f"{DIFF}, {what}")
    for color, name, style in ((COLORS[2], BRIGHT_ENDING, "-"), ("gray", SHUFFLED, "--")):
        value = np.nanmean([r["auroc"]["value"] for r in results if r["map"] == name])
        axis.axhline(value, color=color, linestyle=style, label=name)
    axis.set(xlabel="step, the first is the noisiest", ylabel="pixel AUROC")
    axis.legend()
    return figure


def overlay_figure(run: Run, truths: Mapping[int, np.ndarray], num_prompts: int = 4) -> Figure:
    """Image, true mask's border and the maps over it, for prompts spread over the run.

    Args:
        truths: of `true_masks`.
    """
    rows = [r for r in run.rows if r["index"] in truths and not truths[r["index"]].all()] or list(run.rows)
    rows = [rows[k] for k in np.linspace(0, len(rows) - 1, min(num_prompts, len(rows))).astype(int)]
    figure, axes = grid(len(rows), len(SHOWN_MAPS) + 1, 2.1, 2.2)
    for line, row in zip(axes, rows, strict=True):
        maps, image = candidate_maps(run_maps(run, row), row["seeds"]), run.image(row, 0)
        show(line[0], image, "generated")
        line[0].set_xlabel(f"“{row['prompt'][:34]}”", fontsize=7)
        for axis, name in zip(line[1:], SHOWN_MAPS, strict=True):
            overlay(axis, image, maps[name][0].numpy(), truths.get(row["index"]))
            axis.set_title(name, fontsize=7)
    return figure


def gallery_figure(run: Run, masks: Masks, key: str, horizon: int | None, num_prompts: int = 6) -> Figure:
    """The prompts with the highest scores: image above, bright-ending mask over it below, all in one range.

    Args:
        masks: by (prompt index, seed); images without one get none.
        key, horizon: the score and its T.
    """
    scores = [image_scores(row, key, horizon).mean() for row in run.rows]
    highest = np.argsort(scores)[::-1][:num_prompts]
    figure, axes = grid(2, len(highest), 1.9, 2.05)
    shown = [masks.get((run.rows[k]["index"], run.rows[k]["seeds"][0])) for k in highest]
    brightest = max((float(m.max()) for m in shown if m is not None), default=1.0)
    for column, k, mask in zip(axes.T, highest, shown, strict=True):
        row = run.rows[k]
        image = run.image(row, 0)
        show(column[0], image, f"{scores[k]:.2f}")
        column[0].set_xlabel(f"“{row['prompt'][:30]}”", fontsize=7)
        if mask is None:
            column[1].set_axis_off()
        else:
            overlay(column[1], image, mask, brightest=brightest)
    return figure
