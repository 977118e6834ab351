"""Figures of mitigation: the trade-off of privacy, utility and quality, and the images themselves."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.evaluation.statistics import Result
from memorization.evaluation.tradeoff import PRIVACY, QUALITY, UTILITY, mitigating
from memorization.finished_runs import Run
from memorization.mitigations.base import PLAIN
from memorization.report.theme import COLORS, MARKERS, grid, panels, show

Results = Sequence[Result]


def tradeoff_figure(results: Results) -> Figure:
    """Privacy (SSCD, down is private) against utility (CLIP, right is useful) and against quality (CMMD, left is good).

    A column for each kind, quality below; where there are more methods than colours, a panel for each method, with all
    others in grey. Ruined strengths are crossed out.

    Args:
        results: of `evaluate_mitigation`, with SSCD and CLIP, and CMMD where there is a reference.
    """
    methods = mitigating(results)
    kinds = list(dict.fromkeys(r["kind"] for r in results))
    if len(methods) > len(COLORS):
        return method_panels([r for r in results if r["kind"] == kinds[-1]], methods)
    sides = sides_of(results)
    figure, axes = grid(len(sides), len(kinds), 4.6, 4.4 if len(sides) == 1 else 3.6)
    for line, (measure, text) in zip(axes, sides.items(), strict=True):
        for axis, kind in zip(line, kinds, strict=True):
            rows = [r for r in results if r["kind"] == kind]
            draw_plain(axis, rows, "no mitigation", measure)
            for k, method in enumerate(methods):
                draw_curve(axis, [r for r in rows if r["method"] == method], COLORS[k], MARKERS[k], method, measure)
            cross_out(axis, rows, measure)
            axis.set(title=kind, xlabel=text)
            axis.set_ylabel("SSCD to the training image (lower: more private)", fontsize=8)
    axes[0, -1].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def sides_of(results: Results) -> dict[str, str]:
    """What privacy is drawn against, and what the axis says."""
    sides = {UTILITY: "CLIP similarity to the prompt (higher: more useful)"}
    if all(np.isfinite(r.get(QUALITY, {"value": np.nan})["value"]) for r in results):
        sides[QUALITY] = "CMMD to ordinary images (lower: less damaged)"
    return sides


def cross_out(axis: Axes, rows: Results, measure: str) -> None:
    """A cross over every strength whose images are ruined."""
    ruined = [r for r in rows if r.get("ruined")]
    if ruined:
        places = values(ruined, measure), values(ruined, PRIVACY)
        axis.plot(*places, "x", color="red", markersize=11, markeredgewidth=2, zorder=5, label="ruined images")


def method_panels(rows: Results, methods: Sequence[str]) -> Figure:
    """A panel for each method, its strengths coloured by quality where it is measured; results of one kind."""
    figure, axes = panels(len(methods), 2.3, 2.2)
    has_quality = QUALITY in sides_of(rows)
    for axis, method in zip(axes, methods, strict=True):
        for other in methods:
            some = [r for r in rows if r["method"] == other]
            axis.plot(values(some, UTILITY), values(some, PRIVACY), color="0.8", linewidth=0.7, zorder=1)
        draw_plain(axis, rows)
        own = [r for r in rows if r["method"] == method]
        draw_curve(axis, own, COLORS[0], "o")
        cross_out(axis, own, UTILITY)
        axis.set_title(method)
        if has_quality:
            colored = paint(axis, own, max(values(rows, QUALITY)))
    if has_quality:
        figure.colorbar(colored, ax=axes, label="CMMD to ordinary images (bright: damaged)")
    figure.supxlabel("CLIP similarity to the prompt (right: more useful)", fontsize=9)
    figure.supylabel("SSCD to the training image (down: more private)", fontsize=9)
    return figure


def paint(axis: Axes, rows: Results, highest: float) -> PathCollection:
    """The strengths of a method in the colour of their CMMD, from 0 to the highest of all methods."""
    places = values(rows, UTILITY), values(rows, PRIVACY)
    return axis.scatter(*places, c=values(rows, QUALITY), vmin=0, vmax=max(highest, 0.1), cmap="plasma", s=30, zorder=4)


def values(rows: Results, measure: str) -> list[float]:
    return [r[measure]["value"] for r in rows]


def draw_plain(axis: Axes, rows: Results, label: str | None = None, measure: str = UTILITY) -> None:
    plain = [r for r in rows if r["method"] == PLAIN]
    if plain:
        draw_curve(axis, plain, "gray", "s", label, measure)


def draw_curve(
    axis: Axes, rows: Results, color: str, marker: str, label: str | None = None, measure: str = UTILITY
) -> None:
    """The strengths of a method as a line through points with their intervals, privacy against a measure."""
    axis.errorbar(
        values(rows, measure),
        values(rows, PRIVACY),
        xerr=error_bars(rows, measure),
        yerr=error_bars(rows, PRIVACY),
        color=color,
        marker=marker,
        markersize=5,
        label=label,
        linewidth=1.2,
        elinewidth=0.4,
        alpha=0.9,
    )


def verdicts_of(results: Results) -> dict[str, str]:
    """What is said beneath the pictures of each run: its CMMD, and whether its images are ruined; by its key.

    Args:
        results: of `evaluate_mitigation`; of a run's kinds the last, all of them together, counts.
    """
    found = {}
    for r in results:
        cmmd = f"CMMD {r[QUALITY]['value']:.2f}" if np.isfinite(r.get(QUALITY, {"value": np.nan})["value"]) else ""
        found[r["run"]] = ", ".join(text for text in (cmmd, "ruined" if r.get("ruined") else "") if text)
    return found


def error_bars(rows: Results, measure: str) -> np.ndarray:
    """How far an interval reaches below and above its value, (2, rows)."""
    measures = [r[measure] for r in rows]
    return np.abs([[m["value"] - m["low"] for m in measures], [m["high"] - m["value"] for m in measures]])


def strips_figure(
    runs: Sequence[Run],
    records: Mapping[int, PromptRecord],
    verdicts: Mapping[str, str] | None = None,
    num_prompts: int = 4,
) -> Figure:
    """Training image, then the same seed under every run.

    Args:
        records: with training images, by prompt index.
        verdicts: what stands beneath each picture of a run, by the run's key.
    """
    shown = [row for row in runs[0].rows if row["index"] in records]
    rows = [shown[k] for k in np.linspace(0, len(shown) - 1, num_prompts).astype(int)]
    figure, axes = grid(len(rows), len(runs) + 1, 1.25, 1.4)
    for line, row in zip(axes, rows, strict=True):
        show(line[0], read_image(records[row["index"]].reference_images[0]))
        line[0].set_ylabel(row.get("kind") or "", fontsize=7)
        for axis, run in zip(line[1:], runs, strict=True):
            show(axis, run.image(next(r for r in run.rows if r["index"] == row["index"]), 0))
            axis.set_xlabel((verdicts or {}).get(run.key, ""), fontsize=6)
    titles = ["training", *(r.key.removeprefix("sweep_") for r in runs)]
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=7)
    return figure
