"""Figures of detection. Each function returns a matplotlib figure, drawn from what evaluation computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memorization.evaluation.classes import ALL_KINDS, Classes, ClassPair, View, gather
from memorization.evaluation.curves import cumulative_curve, rank_auc
from memorization.evaluation.score_columns import score_columns
from memorization.evaluation.statistics import Measure, Result
from memorization.finished_runs import Run
from memorization.report.theme import COLORS, grid, legend_below, line_style, panels
from memorization.scores import HORIZONS, MAGNITUDE, horizons_of, label, score_cost, score_label

LOWEST_FPR = 1e-3
Horizons = Mapping[str, int | None]


def default_horizons(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, int | None]:
    """T=1 for the global score, the published early detector, and all steps for the masked ones."""
    row = runs[0].rows[0]
    return {k: 1 if k == MAGNITUDE and 1 in horizons_of(row, k, HORIZONS) else None for k in keys}


def class_grid(classes: Classes, height: float) -> tuple[Figure, list[tuple[Axes, ClassPair]]]:
    """A panel for every kind (across) against every negative set (down)."""
    figure, axes = grid(len(classes.sets), len(classes.kinds), 3.6, height)
    cells = list(zip(axes.T.flat, classes.pairs(), strict=True))
    for axis, pair in cells:
        axis.set_title(f"{pair.kind} / {pair.negative_set}")
    return figure, cells


def roc_figure(classes: Classes, keys: Sequence[str], horizons: Horizons) -> Figure:
    """ROC curves per image, one panel for each kind against each negative set, FPR on a log scale."""
    figure, cells = class_grid(classes, 3.3)
    for axis, pair in cells:
        for k, key in enumerate(keys):
            draw_roc(axis, pair, key, horizons[key], **line_style(k))
        axis.set(xscale="log", xlim=(LOWEST_FPR, 1), ylim=(0, 1.02))
        axis.set(xlabel="false positive rate", ylabel="true positive rate")
    legend_below(figure, cells[0][0])
    return figure


def draw_roc(axis: Axes, pair: ClassPair, key: str, horizon: int | None, **style: Any) -> None:
    items = gather(pair, View(key, horizon))
    curve = cumulative_curve(items.scores, items.labels)
    x, y = np.r_[LOWEST_FPR, np.maximum(curve.fpr, LOWEST_FPR)], np.r_[0, curve.tpr]
    axis.step(x, y, where="post", label=score_label(key, horizon), **style)


def distribution_figure(classes: Classes, keys: Sequence[str], horizons: Horizons) -> Figure:
    """Every image's score as a dot, by kind; the bar is the median."""
    figure, axes = panels(len(keys), 3.1, 3.3)
    groups = {**{k: parts for k, parts in classes.kinds.items() if k != ALL_KINDS}, **classes.sets}
    names = [name.removeprefix("planted_").replace("_", " ") for name in groups]
    for axis, key in zip(axes, keys, strict=True):
        for place, (color, parts) in enumerate(zip(COLORS, groups.values(), strict=False)):
            values = np.concatenate([score_columns(p.rows, key, horizons[key]).scores.ravel() for p in parts])
            jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
            axis.scatter(place + jitter, values, s=9, color=color, alpha=0.5, linewidths=0)
            axis.hlines(np.median(values), place - 0.35, place + 0.35, color=color, linewidth=2)
        axis.set_xticks(range(len(groups)), names, fontsize=8, rotation=25)
        axis.set_title(score_label(key, horizons[key]))
    return figure


@dataclass(frozen=True)
class Bar:
    """A line of the cost figure: a score at its T, what it costs, and its AUC by negative set."""

    label: str
    cost: int
    aucs: Mapping[str, Measure]


def cost_bars(results: Sequence[Result], num_steps: int) -> list[Bar]:
    """Every score per image against all memorized prompts, the dearest first."""
    kind = results[-1]["memorized_kind"]  # all memorized, where there are several kinds
    some = [r for r in results if r["level"] == "image" and r["memorized_kind"] == kind]
    bars = []
    for key, horizon in dict.fromkeys((r["key"], r["T"]) for r in some):
        aucs = {r["negative_set"]: r["auc"] for r in some if (r["key"], r["T"]) == (key, horizon)}
        bars.append(Bar(score_label(key, horizon), score_cost(key, horizon, num_steps), aucs))
    return sorted(bars, key=lambda bar: bar.cost, reverse=True)


def cost_figure(results: Sequence[Result], num_steps: int) -> Figure:
    """What every score alone costs per image beside its AUC against each negative set, the cheapest on top.

    Args:
        results: of `evaluate_detection`; those per image and of all memorized prompts are drawn.
        num_steps: of a whole generation.
    """
    bars, kind = cost_bars(results, num_steps), results[-1]["memorized_kind"]
    sets = list(bars[0].aucs)
    size = (3.6 + 2.7 * (1 + len(sets)), 0.8 + 0.21 * len(bars))
    figure, axes = plt.subplots(1, 1 + len(sets), figsize=size, layout="constrained", sharey=True)
    axes[0].barh(range(len(bars)), [bar.cost for bar in bars], color="0.6", height=0.65)
    axes[0].set_yticks(range(len(bars)), [bar.label for bar in bars], fontsize=8)
    axes[0].set(xscale="log", xlabel="evaluations per image", title="cost alone")
    for place, bar in enumerate(bars):
        axes[0].annotate(f" {bar.cost}", (bar.cost, place), va="center", fontsize=7)
    for axis, negatives in zip(axes[1:], sets, strict=True):
        for place, bar in enumerate(bars):
            draw_interval(axis, place, bar.aucs[negatives])
        axis.axvline(0.5, linewidth=0.8, color="0.5", linestyle=":")
        axis.set(xlim=(-0.02, 1.02), xlabel="AUC per image", title=f"{kind} / {negatives}")
    return figure


def draw_interval(axis: Axes, place: int, auc: Measure) -> None:
    """A measure with its interval, in another colour where it is reversed."""
    axis.hlines(place, auc["low"], auc["high"], color=COLORS[0], linewidth=1.5, alpha=0.6)
    axis.plot(auc["value"], place, "o", color=COLORS[0] if auc["value"] >= 0.5 else COLORS[1], markersize=5)


def horizon_figure(classes: Classes, keys: Sequence[str]) -> Figure:
    """AUC per image against T, the number of first steps that are averaged."""
    figure, cells = class_grid(classes, 3.1)
    for axis, pair in cells:
        for color, key in zip(COLORS, keys, strict=False):
            axis.plot(*auc_by_horizon(pair, key), color=color, label=label(key))
        axis.set(xlabel="T, first steps averaged", ylabel="AUC per image")
    legend_below(figure, cells[0][0])
    return figure


def auc_by_horizon(pair: ClassPair, key: str) -> tuple[np.ndarray, list[float]]:
    """Every T, and the AUC of the mean over the first T steps."""
    running = []
    for parts in (pair.memorized, pair.others):
        values = np.concatenate([np.asarray(row[key], float) for part in parts for row in part.rows])
        running.append(np.cumsum(values, 1) / np.arange(1, values.shape[1] + 1))
    steps = np.arange(1, running[0].shape[1] + 1)
    return steps, [rank_auc(running[0][:, t - 1], running[1][:, t - 1]) for t in steps]
