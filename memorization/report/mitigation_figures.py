"""Figures of mitigation: the trade-off of privacy and utility, and the images themselves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.evaluation.statistics import Result
from memorization.evaluation.tradeoff import PRIVACY, UTILITY, mitigating
from memorization.finished_runs import Run
from memorization.mitigations.base import PLAIN
from memorization.report.theme import COLORS, MARKERS, grid, panels, show

Results = Sequence[Result]


def tradeoff_figure(results: Results) -> Figure:
    """Privacy (SSCD, down is private) against utility (CLIP, right is useful).

    A panel for each kind; where there are more methods than colours, a panel for each method, with all others in grey.

    Args:
        results: of `evaluate_mitigation`, with SSCD and CLIP.
    """
    methods = mitigating(results)
    kinds = list(dict.fromkeys(r["kind"] for r in results))
    if len(methods) > len(COLORS):
        return method_panels([r for r in results if r["kind"] == kinds[-1]], methods)
    figure, axes = grid(1, len(kinds), 4.6, 4.4)
    for axis, kind in zip(axes[0], kinds, strict=True):
        rows = [r for r in results if r["kind"] == kind]
        draw_plain(axis, rows, label="no mitigation")
        for k, method in enumerate(methods):
            draw_curve(axis, [r for r in rows if r["method"] == method], COLORS[k], MARKERS[k], label=method)
        axis.set(title=kind, xlabel="CLIP similarity to the prompt (higher: more useful)")
        axis.set_ylabel("SSCD to the training image (lower: more private)")
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def method_panels(rows: Results, methods: Sequence[str]) -> Figure:
    """A panel for each method; results of one kind."""
    figure, axes = panels(len(methods), 2.3, 2.2)
    for axis, method in zip(axes, methods, strict=True):
        for other in methods:
            some = [r for r in rows if r["method"] == other]
            axis.plot(values(some, UTILITY), values(some, PRIVACY), color="0.8", linewidth=0.7, zorder=1)
        draw_plain(axis, rows)
        draw_curve(axis, [r for r in rows if r["method"] == method], COLORS[0], "o")
        axis.set_title(method)
    figure.supxlabel("CLIP similarity to the prompt (right: more useful)", fontsize=9)
    figure.supylabel("SSCD to the training image (down: more private)", fontsize=9)
    return figure


def values(rows: Results, measure: str) -> list[float]:
    return [r[measure]["value"] for r in rows]


def draw_plain(axis: Axes, rows: Results, label: str | None = None) -> None:
    plain = [r for r in rows if r["method"] == PLAIN]
    if plain:
        draw_curve(axis, plain, "gray", "s", label=label)


def draw_curve(axis: Axes, rows: Results, color: str, marker: str, label: str | None = None) -> None:
    """The strengths of a method as a line through points with their intervals."""
    axis.errorbar(
        values(rows, UTILITY),
        values(rows, PRIVACY),
        xerr=error_bars(rows, UTILITY),
        yerr=error_bars(rows, PRIVACY),
        color=color,
        marker=marker,
        markersize=5,
        label=label,
        linewidth=1.2,
        elinewidth=0.4,
        alpha=0.9,
    )


def error_bars(rows: Results, measure: str) -> np.ndarray:
    """How far an interval reaches below and above its value, (2, rows)."""
    measures = [r[measure] for r in rows]
    return np.abs([[m["value"] - m["low"] for m in measures], [m["high"] - m["value"] for m in measures]])


def strips_figure(runs: Sequence[Run], records: Mapping[int, PromptRecord], num_prompts: int = 4) -> Figure:
    """Training image, then the same seed under every run.

    Args:
        records: with training images, by prompt index.
    """
    shown = [row for row in runs[0].rows if row["index"] in records]
    rows = [shown[k] for k in np.linspace(0, len(shown) - 1, num_prompts).astype(int)]
    figure, axes = grid(len(rows), len(runs) + 1, 1.25, 1.4)
    for line, row in zip(axes, rows, strict=True):
        show(line[0], read_image(records[row["index"]].reference_images[0]))
        line[0].set_ylabel(row.get("kind") or "", fontsize=7)
        for axis, run in zip(line[1:], runs, strict=True):
            show(axis, run.image(next(r for r in run.rows if r["index"] == row["index"]), 0))
    titles = ["training", *(r.key.removeprefix("sweep_") for r in runs)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7)
    return figure
