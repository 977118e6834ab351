"""Figures of retrieval. Each function returns a matplotlib figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from memorization.data.pictures import read_image
from memorization.evaluation.retrieval import Matched, Retrieval
from memorization.evaluation.retrieval_summary import prompt_means, similarity_means
from memorization.evaluation.statistics import Result
from memorization.report.theme import COLORS, grid, legend_below, show
from memorization.similarity.complexity import MEASURES
from memorization.similarity.pixels import COPY_SIMILARITY

BINS = 40

Shown = tuple[int, int]  # a generation: which of the sources, and which picture of it


def histogram_figure(retrieval: Retrieval) -> Figure:
    """Similarity to the most similar training picture: generations, controls and the background in one panel."""
    parts = [*retrieval.matched, *([] if retrieval.background is None else [retrieval.background])]
    figure, axes = grid(1, 1, 7.6, 3.6)
    axis = axes[0, 0]
    values = [part.nearest for part in parts]
    edges = np.linspace(min(float(v.min()) for v in values), max(float(v.max()) for v in values) + 1e-6, BINS + 1)
    for k, (part, some) in enumerate(zip(parts, values, strict=True)):
        is_background = part is retrieval.background
        color = "gray" if is_background else COLORS[k % len(COLORS)]
        style = "stepfilled" if is_background else "step"
        weights = np.full(len(some), 1 / len(some))
        axis.hist(some, edges, weights=weights, histtype=style, color=color, label=part.name, alpha=0.8)
    axis.axvline(COPY_SIMILARITY, color="gray", linestyle=":")
    axis.set(xlabel="similarity to the most similar training picture", ylabel="share of pictures")
    legend_below(figure, axis)
    return figure


def complexity_figure(retrieval: Retrieval) -> Figure:
    """Similarity against complexity of the matched training picture, a dot per prompt, a panel per measure."""
    figure, axes = grid(1, len(MEASURES), 3.0, 3.0)
    for axis, (name, text) in zip(axes[0], MEASURES.items(), strict=True):
        for color, some in zip(COLORS, generations(retrieval), strict=False):
            values = np.array([retrieval.complexities[int(row)][name] for row in some.rows[:, 0]])
            x = prompt_means(values, some.prompts)
            axis.scatter(x, similarity_means(some), s=10, color=color, alpha=0.6, linewidths=0, label=some.name)
        axis.set(xlabel=text)
    axes[0, 0].set_ylabel("similarity")
    legend_below(figure, axes[0, 0])
    return figure


def generations(retrieval: Retrieval) -> list[Matched]:
    return [some for some in retrieval.matched if not some.is_control]


def duplicates_figure(results: Sequence[Result]) -> Figure:
    """Mean similarity of what matches duplicated and single training pictures, with intervals.

    Args:
        results: of `summarize_duplicates`.
    """
    names = list(dict.fromkeys(r["of"] for r in results))
    figure, axes = grid(1, 1, max(3.6, 1.8 * len(names)), 3.6)
    axis = axes[0, 0]
    for k, match in enumerate(("duplicated", "single")):
        means = [r["mean"] for r in results if r["match"] == match]
        heights = np.array([m["value"] for m in means])
        reach = np.array([[m["value"] - m["low"], m["high"] - m["value"]] for m in means]).T
        axis.bar(np.arange(len(names)) + 0.4 * k, heights, 0.38, yerr=reach, color=COLORS[k], capsize=3, label=match)
    axis.set_xticks(np.arange(len(names)) + 0.2, names, fontsize=8, rotation=15)
    axis.set_ylabel("mean similarity")
    legend_below(figure, axis)
    return figure


def most_like_training(retrieval: Retrieval, count: int) -> list[Shown]:
    """The generations that are most like a training picture, the most similar first; no controls."""
    ranked = [
        (-float(value), k, place)
        for k, some in enumerate(retrieval.matched)
        if not some.is_control
        for place, value in enumerate(some.nearest)
    ]
    return [(k, place) for _, k, place in sorted(ranked)[:count]]


def gallery_figure(retrieval: Retrieval, shown: Sequence[Shown]) -> Figure:
    """Generations, each with its most similar training pictures and their similarities."""
    width = retrieval.matched[0].rows.shape[1]
    figure, axes = grid(len(shown), width + 1, 1.25, 1.4)
    rows = {int(row) for k, place in shown for row in retrieval.matched[k].rows[place]}
    entries = retrieval.index.entries(rows)
    for line, (k, place) in zip(axes, shown, strict=True):
        some, source = retrieval.matched[k], retrieval.sources[k]
        part, inside = some.places[place]
        show(line[0], source.pictures.parts[part][1]()[inside], some.name[:16])
        line[0].set_xlabel(some.prompts[place][:24], fontsize=6)
        for axis, row, value in zip(line[1:], some.rows[place].tolist(), some.similarity[place], strict=True):
            show(axis, read_image(entries[row].picture), f"{value:.2f}")
            axis.set_xlabel(entries[row].caption[:24], fontsize=6)
    return figure
