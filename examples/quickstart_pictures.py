"""The quickstart's pictures and tables, from its finished runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from memorization.bundled import GROUND_TRUTH
from memorization.data.pictures import read_image, read_mask
from memorization.evaluation.detection import summary
from memorization.files.whole import write_text
from memorization.finished_runs import Masks, Run, stored_masks
from memorization.scores import MAGNITUDE
from memorization.tables import format_table

COLORS = {"verbatim": "#d1495b", "template": "#edae49", "normal": "#3d6f8e"}
TITLES = {"verbatim": "memorized, global", "template": "memorized, local", "normal": "not memorized"}
LOCAL = "text_noise_norm_masked"
Rows = Sequence[Mapping]


def kind_of(row: Mapping) -> str:
    return row["kind"] if row["is_memorized"] else "normal"


def by_kind(rows: Rows) -> dict[str, Rows]:
    return {kind: [row for row in rows if kind_of(row) == kind] for kind in COLORS}


def training_image(index: int) -> np.ndarray:
    return read_image(GROUND_TRUTH / "gt_images" / str(index) / "0.png")


def show(axis: Axes, image: np.ndarray, title: str | None = None, **how) -> None:
    axis.imshow(image, **how)
    axis.set(xticks=[], yticks=[])
    if title:
        axis.set_title(title, fontsize=9)


def show_mask(axis: Axes, image: np.ndarray, mask: np.ndarray, truth: np.ndarray | None, brightest: float) -> None:
    """The mask as heat over the grey image; the border of the true mask in white."""
    height, width = image.shape[:2]
    place = (0, width, height, 0)
    show(axis, image.mean(2), cmap="gray", extent=place, alpha=0.5)
    axis.imshow(mask.astype(np.float32), cmap="inferno", vmin=0, vmax=brightest, extent=place, alpha=0.75)
    if truth is not None and not truth.all():
        axis.contour(truth.astype(float), levels=[0.5], colors="white", linewidths=2)
    for side in axis.spines.values() if truth is not None and truth.all() else ():
        side.set(color="black", linewidth=3)


def draw_detection(run: Run, path: Path) -> None:
    """One prompt of each kind, the one whose end-token attention is its kind's median: image, mask, curves."""
    masks = stored_masks(run)
    brightest = float(np.quantile([m.max() for m in masks.values()], 0.9))
    figure, axes = plt.subplots(3, 5, figsize=(13, 7.6), layout="constrained", width_ratios=[1, 1, 1, 1.5, 1.5])
    for line, (kind, some) in zip(axes, by_kind(run.rows).items(), strict=True):
        row = sorted(some, key=lambda r: r["end_token_attention"][0])[len(some) // 2]
        draw_example(line[:3], run, row, masks, brightest)
        line[0].set_ylabel(TITLES[kind], fontsize=11)
        for axis, key, name in zip(line[3:], (MAGNITUDE, LOCAL), ("D", "LD"), strict=True):
            axis.plot(np.arange(1, len(row[key][0]) + 1), row[key][0], color=COLORS[kind])
            axis.set_title(f"{name} at each step", fontsize=9)
            axis.set_ylim(0, 1.05 * max(max(r[key][0]) for r in run.rows))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_example(axes: Sequence[Axes], run: Run, row: Mapping, masks: Masks, brightest: float) -> None:
    """Training image, generated image, and the mask over it."""
    image, truth = run.image(row, 0), None
    reference, title, name = np.full_like(image, 235), "no training image", "bright ending"
    if row["is_memorized"]:
        truth = read_mask(GROUND_TRUTH / "gt_masks" / f"{row['index']}.png")
        reference, title = training_image(row["index"]), "training image"
        name += "; true mask outlined"
    show(axes[0], reference, title)
    show(axes[1], image, "generated")
    axes[1].set_xlabel(f"“{row['prompt']}”", fontsize=8)
    show_mask(axes[2], image, masks[row["index"], row["seeds"][0]], truth, brightest)
    axes[2].set_title(name, fontsize=9)


def draw_scores(run: Run, path: Path) -> None:
    """Curves over steps and per-image scores of all prompts, by kind."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    for place, (kind, some) in enumerate(by_kind(run.rows).items()):
        draw_curves(axes[0], some, MAGNITUDE, COLORS[kind], TITLES[kind])
        draw_curves(axes[1], some, LOCAL, COLORS[kind], TITLES[kind])
        first = np.array([norms[0] for row in some for norms in row[MAGNITUDE]])
        brightness = np.array([value for row in some for value in row["end_token_attention"]])
        for axis, values in zip(axes[2:], (first, brightness), strict=True):
            jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
            axis.scatter(place + jitter, values, s=12, color=COLORS[kind])
    titles = ("D at each step (band: middle half)", "LD at each step (band: middle half)")
    titles += ("D, first step, one dot per image", "end-token attention, one dot per image")
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=10)
    for axis in axes[2:]:
        axis.set_xticks(range(3), [title.replace(", ", ",\n") for title in TITLES.values()], fontsize=8)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_curves(axis: Axes, rows: Rows, key: str, color: str, label: str) -> None:
    """Mean over images and the middle half of them, per step."""
    values = np.array([norms for row in rows for norms in row[key]])
    steps = np.arange(1, values.shape[1] + 1)
    axis.plot(steps, values.mean(0), color=color, label=label)
    low, high = np.quantile(values, (0.25, 0.75), axis=0)
    axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def draw_mitigation(runs: Mapping[str, Run], path: Path) -> None:
    """Strips: the training image, then the same seed under every method."""
    first = next(iter(runs.values())).rows
    half = len(first) // 2
    places = [*range(min(3, half)), *range(half, min(half + 3, len(first)))]
    size = (1.5 * (len(runs) + 1), 1.62 * len(places))
    figure, axes = plt.subplots(len(places), len(runs) + 1, figsize=size, layout="constrained")
    for axis, title in zip(axes[0], ["training image", *runs], strict=True):
        axis.set_title(title, fontsize=9)
    for line, k in zip(axes, places, strict=True):
        show(line[0], training_image(first[k]["index"]))
        line[0].set_ylabel(first[k]["kind"], fontsize=9)
        for axis, run in zip(line[1:], runs.values(), strict=True):
            show(axis, run.image(run.rows[k], 0))
            axis.set_xlabel(f"similarity {run.rows[k]['pixel_similarity'][0]:.2f}", fontsize=7)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def mitigation_table(runs: Mapping[str, Run]) -> str:
    """Markdown table: similarity to the training image by kind, how often it fired, what it cost."""
    kinds, table = ("verbatim", "template"), []
    for method, run in runs.items():
        groups = by_kind([row | {"is_memorized": True} for row in run.rows])
        similarity = [float(np.mean([v for row in groups[k] for v in row["pixel_similarity"]])) for k in kinds]
        triggered = [t for row in run.rows for t in row["triggered"]]
        evals = np.mean([row["unet_evals_per_image"] + row.get("mask_evals_per_image", 0) for row in run.rows])
        table.append([method, *similarity, f"{sum(triggered)} of {len(triggered)}", f"{evals:.1f}"])
    headers = ["method", *(f"similarity, {k}" for k in kinds), "triggered", "UNet evaluations per image"]
    return format_table(headers, table)


def write_pictures(output: Path, detection: Run, mitigations: Mapping[str, Run]) -> list[Path]:
    """Draw everything and write the tables.

    Args:
        mitigations: runs by what pictures call them, plain generation first.

    Returns:
        Paths of what was written, the tables last.
    """
    plt.switch_backend("agg")  # files only, whether there is a display or not
    draw_detection(detection, output / "detection.png")
    draw_scores(detection, output / "scores.png")
    draw_mitigation(mitigations, output / "mitigation.png")
    page = (
        f"# Detection\n\n{summary(detection.rows)}\n\n![](detection.png)\n\n![](scores.png)\n\n"
        f"# Mitigation\n\n{mitigation_table(mitigations)}\n\n![](mitigation.png)\n"
    )
    write_text(output / "summary.md", page)
    return [output / name for name in ("detection.png", "scores.png", "mitigation.png", "summary.md")]
