"""Figures of evaluation, drawn from what the eval_* modules computed. Each function returns a matplotlib figure."""

from contextlib import contextmanager

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler

from memorization.data.pictures import read_image
from memorization.evaluation.detection import gather
from memorization.evaluation.localisation import BRIGHT_ENDING, DIFF, PRODUCT, SHUFFLED, candidate_maps
from memorization.evaluation.statistics import cumulative_curve, rank_auc
from memorization.files.maps import load_maps, maps_path
from memorization.finished_runs import PLAIN
from memorization.scores import HORIZONS, NAMES, horizons_of, image_scores, score_cost, score_label

# Six of Okabe and Ito's and three of Tol's colours, which people with colour blindness can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#44AA99")


MARKERS = "sD^vPX*h<"


DARK = {
    "figure.facecolor": "#15181c", "axes.facecolor": "#15181c", "savefig.facecolor": "#15181c",
    "text.color": "#e4e6e8", "axes.labelcolor": "#e4e6e8", "axes.edgecolor": "#9aa0a6", "xtick.color": "#c6cacd",
    "ytick.color": "#c6cacd", "grid.color": "#3a3f45", "legend.facecolor": "#15181c", "legend.edgecolor": "#3a3f45",
}  # fmt: skip


STYLE = {
    "axes.grid": True, "grid.linewidth": 0.4, "grid.alpha": 0.7, "axes.spines.top": False, "axes.spines.right": False,
    "font.size": 9, "axes.titlesize": 10, "legend.fontsize": 8, "axes.prop_cycle": cycler(color=COLORS),
}  # fmt: skip


LINES = ("-", "--", ":")


PANELS = 6  # in a row


LOWEST_FPR = 1e-3


SHOWN_MAPS = (BRIGHT_ENDING, f"{DIFF}, all steps", PRODUCT)


@contextmanager
def theme(dark=False):
    """Draw in our style, on a dark ground if asked."""
    with plt.rc_context({**STYLE, **(DARK if dark else {})}):
        yield


def grid(rows, columns, width, height):
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False)


def legend_below(figure, axis):
    """One legend for all panels, under them, where it hides nothing."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def roc_figure(kinds, sets, keys, horizon_by_key):
    """ROC curves per image, one panel for each kind against each negative set, FPR on a log scale."""
    figure, axes = grid(len(sets), len(kinds), 3.6, 3.3)
    for line, (negatives, nonmem) in zip(axes, sets.items(), strict=True):
        for axis, (kind, mem) in zip(line, kinds.items(), strict=True):
            for k, key in enumerate(keys):
                items = gather(mem, nonmem, key, horizon_by_key[key], "image")
                curve = cumulative_curve(items.scores, items.labels)
                fpr, tpr = curve.false[0] / curve.negatives[0], curve.true[0] / curve.positives[0]
                style = {"color": COLORS[k % len(COLORS)], "linestyle": LINES[k // len(COLORS) % len(LINES)]}
                axis.step(np.r_[LOWEST_FPR, np.maximum(fpr, LOWEST_FPR)], np.r_[0, tpr], where="post", **style,
                          label=score_label(key, horizon_by_key[key]))  # fmt: skip
            axis.set(xscale="log", xlim=(LOWEST_FPR, 1), ylim=(0, 1.02), title=f"{kind} / {negatives}")
            axis.set(xlabel="false positive rate", ylabel="true positive rate")
    legend_below(figure, axes[0, 0])
    return figure


def cost_figure(results, num_steps):
    """What every score alone costs an image beside its AUC against each negative set, the cheapest on top.

    Args:
        results: of `eval_detection.evaluate_detection`; those per image and of all memorized prompts are drawn.
    """
    kind = results[-1]["memorized_kind"]  # all memorized, where there are several kinds
    some = [r for r in results if r["level"] == "image" and r["memorized_kind"] == kind]
    costs = {(r["key"], r["T"]): score_cost(r["key"], r["T"], num_steps) for r in some}
    order = sorted(costs, key=costs.get, reverse=True)
    sets = list(dict.fromkeys(r["negative_set"] for r in some))
    figure, axes = plt.subplots(
        1,
        1 + len(sets),
        figsize=(3.6 + 2.7 * (1 + len(sets)), 0.8 + 0.21 * len(order)),
        layout="constrained",
        sharey=True,
    )
    axes[0].barh(range(len(order)), [costs[k] for k in order], color="0.6", height=0.65)
    axes[0].set_yticks(range(len(order)), [score_label(*k) for k in order], fontsize=8)
    axes[0].set(xscale="log", xlabel="evaluations an image", title="cost alone")
    for place, key in enumerate(order):
        axes[0].annotate(f" {costs[key]}", (costs[key], place), va="center", fontsize=7)
    for axis, negatives in zip(axes[1:], sets, strict=True):
        found = {(r["key"], r["T"]): r["auc"] for r in some if r["negative_set"] == negatives}
        for place, key in enumerate(order):
            value, low, high = (found[key][n] for n in ("value", "low", "high"))
            axis.hlines(place, low, high, color=COLORS[0], linewidth=1.5, alpha=0.6)
            axis.plot(value, place, "o", color=COLORS[0] if value >= 0.5 else COLORS[1], markersize=5)
        axis.axvline(0.5, linewidth=0.8, color="0.5", linestyle=":")
        axis.set(xlim=(-0.02, 1.02), xlabel="AUC per image", title=f"{kind} / {negatives}")
    return figure


def distribution_figure(kinds, sets, keys, horizon_by_key):
    """Every image's score as a dot, by kind; the bar is the median."""
    columns = min(PANELS, len(keys))
    figure, axes = grid(-(-len(keys) // columns), columns, 3.1, 3.3)
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    groups = {**{k: v for k, v in kinds.items() if k != "all memorized"}, **sets}
    for axis, key in zip(axes.flat[: len(keys)], keys, strict=True):
        for place, (color, pairs) in enumerate(zip(COLORS, groups.values(), strict=False)):
            values = np.concatenate([image_scores(row, key, horizon_by_key[key]) for _, row in pairs])
            jitter = np.random.default_rng(0).uniform(-0.28, 0.28, len(values))
            axis.scatter(place + jitter, values, s=9, color=color, alpha=0.5, linewidths=0)
            axis.hlines(np.median(values), place - 0.35, place + 0.35, color=color, linewidth=2)
        names = [name.removeprefix("planted_").replace("_", " ") for name in groups]
        axis.set_xticks(range(len(groups)), names, fontsize=8, rotation=25)
        axis.set_title(score_label(key, horizon_by_key[key]))
    return figure


def horizon_figure(kinds, sets, keys):
    """AUC per image against T, the number of first steps that are averaged."""
    figure, axes = grid(len(sets), len(kinds), 3.6, 3.1)
    for line, (negatives, nonmem) in zip(axes, sets.items(), strict=True):
        for axis, (kind, mem) in zip(line, kinds.items(), strict=True):
            for color, key in zip(COLORS, keys, strict=False):
                steps, values = auc_by_horizon(mem, nonmem, key)
                axis.plot(steps, values, color=color, label=NAMES.get(key, key))
            axis.set(title=f"{kind} / {negatives}", xlabel="T, first steps averaged", ylabel="AUC per image")
    legend_below(figure, axes[0, 0])
    return figure


def auc_by_horizon(mem, nonmem, key):
    """AUC of the mean over the first T steps for every T."""
    running = []
    for pairs in (mem, nonmem):
        values = np.concatenate([np.asarray(row[key], float) for _, row in pairs])
        running.append(np.cumsum(values, 1) / np.arange(1, values.shape[1] + 1))
    steps = np.arange(1, running[0].shape[1] + 1)
    return steps, [rank_auc(running[0][:, t - 1], running[1][:, t - 1]) for t in steps]


def default_horizons(runs, keys):
    """T=1 for the global score, the published early detector, and all steps for the masked ones."""
    row = runs[0].rows[0]
    return {k: 1 if k == "text_noise_norm" and 1 in horizons_of(row, k, HORIZONS) else None for k in keys}


def steps_figure(by_step, results):
    """Pixel AUROC of noise_diff^2 over the steps, beside that of the bright ending and of its shuffled control."""
    figure, axes = grid(1, 1, 5.2, 3.4)
    axis, steps = axes[0, 0], np.arange(1, len(by_step[0]) + 1)
    for color, values, label in zip(COLORS, by_step, ("this step alone", "mean of the steps so far"), strict=False):
        axis.plot(steps, values, color=color, label=f"{DIFF}, {label}")
    for color, name, style in ((COLORS[2], BRIGHT_ENDING, "-"), ("gray", SHUFFLED, "--")):
        value = np.nanmean([r["auroc"]["value"] for r in results if r["map"] == name])
        axis.axhline(value, color=color, linestyle=style, label=name)
    axis.set(xlabel="step, the first is the noisiest", ylabel="pixel AUROC")
    axis.legend()
    return figure


def overlay_figure(run, truths, num_prompts=4):
    """Image, true mask's border and the maps over it, for prompts spread over the run."""
    rows = [r for r in run.rows if r["index"] in truths and not truths[r["index"]].all()] or list(run.rows)
    rows = [rows[k] for k in np.linspace(0, len(rows) - 1, min(num_prompts, len(rows))).astype(int)]
    figure, axes = grid(len(rows), len(SHOWN_MAPS) + 1, 2.1, 2.2)
    for line, row in zip(axes, rows, strict=True):
        maps = candidate_maps(load_maps(maps_path(run.folder, run.key, row["index"]), len(row["seeds"])), row["seeds"])
        image = run.image(row, 0)
        show(line[0], image, "generated")
        line[0].set_xlabel(f"“{row['prompt'][:34]}”", fontsize=7)
        for axis, name in zip(line[1:], SHOWN_MAPS, strict=True):
            overlay(axis, image, maps[name][0].numpy(), truths.get(row["index"]))
            axis.set_title(name, fontsize=7)
    return figure


def gallery_figure(run, masks, key, horizon, num_prompts=6):
    """The prompts with the highest scores: image above, bright-ending mask over it below, all in one range."""
    scores = [image_scores(row, key, horizon).mean() for row in run.rows]
    chosen = [run.rows[k] for k in np.argsort(scores)[::-1][:num_prompts]]
    figure, axes = grid(2, len(chosen), 1.9, 2.05)
    shown = [masks.get((row["index"], row["seeds"][0])) for row in chosen]
    brightest = max((float(m.max()) for m in shown if m is not None), default=1.0)
    for column, row, mask in zip(axes.T, chosen, shown, strict=True):
        image = run.image(row, 0)
        show(column[0], image, f"{image_scores(row, key, horizon).mean():.2f}")
        column[0].set_xlabel(f"“{row['prompt'][:30]}”", fontsize=7)
        if mask is None:
            column[1].set_axis_off()
        else:
            overlay(column[1], image, mask, brightest=brightest)
    return figure


def show(axis, image, title=None):
    axis.imshow(image)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    if title:
        axis.set_title(title, fontsize=8)


def overlay(axis, image, values, truth=None, brightest=None):
    """A map as heat over the grey image, up to `brightest` or in its own range; the true mask's border in white."""
    height, width = image.shape[:2]
    show(axis, np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8))
    limits = {} if brightest is None else {"vmin": 0, "vmax": brightest}
    values = np.asarray(values, np.float32)
    axis.imshow(values, **limits, cmap="inferno", alpha=0.7, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    if truth is not None and not truth.all():
        places = (np.linspace(0, width - 1, truth.shape[1]), np.linspace(0, height - 1, truth.shape[0]))
        axis.contour(*places, truth.astype(float), levels=[0.5], colors="white", linewidths=1.5)


def tradeoff_figure(results):
    """Privacy (SSCD, down is private) against utility (CLIP, right is useful).

    A panel for each kind; where there are more methods than colours, a panel for each method, with all others in grey.
    """
    methods = [m for m in dict.fromkeys(r["method"] for r in results) if m != PLAIN]
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


def method_panels(rows, methods):
    figure, axes = grid(-(-len(methods) // PANELS), PANELS, 2.3, 2.2)
    for axis in axes.flat[len(methods) :]:
        axis.set_visible(False)
    for axis, method in zip(axes.flat, methods, strict=False):
        for other in methods:
            some = [r for r in rows if r["method"] == other]
            axis.plot(*([r[m]["value"] for r in some] for m in ("clip", "sscd")), color="0.8", linewidth=0.7, zorder=1)
        draw_plain(axis, rows)
        draw_curve(axis, [r for r in rows if r["method"] == method], COLORS[0], "o")
        axis.set_title(method)
    figure.supxlabel("CLIP similarity to the prompt (right: more useful)", fontsize=9)
    figure.supylabel("SSCD to the training image (down: more private)", fontsize=9)
    return figure


def draw_plain(axis, rows, **style):
    plain = [r for r in rows if r["method"] == PLAIN]
    if plain:
        draw_curve(axis, plain, "gray", "s", **style)


def draw_curve(axis, rows, color, marker, label=None):
    x, y = ([r[m]["value"] for r in rows] for m in ("clip", "sscd"))
    bars = [
        np.abs([[r[m]["value"] - r[m]["low"] for r in rows], [r[m]["high"] - r[m]["value"] for r in rows]])
        for m in ("clip", "sscd")
    ]
    axis.errorbar(x, y, xerr=bars[0], yerr=bars[1], color=color, marker=marker, markersize=5, label=label,
                  linewidth=1.2, elinewidth=0.4, alpha=0.9)  # fmt: skip


def strips_figure(runs, records, num_prompts=4):
    """Training image, then the same seed under every run."""
    rows = [runs[0].rows[k] for k in np.linspace(0, len(runs[0].rows) - 1, num_prompts).astype(int)]
    figure, axes = grid(len(rows), len(runs) + 1, 1.25, 1.4)
    for line, row in zip(axes, rows, strict=True):
        show(line[0], read_image(records[row["index"]].reference_images[0]))
        line[0].set_ylabel(row.get("kind") or "", fontsize=7)
        for axis, run in zip(line[1:], runs, strict=True):
            show(axis, run.image(next(r for r in run.rows if r["index"] == row["index"]), 0))
    for axis, title in zip(axes[0], ["training", *(r.key.removeprefix("sweep_") for r in runs)], strict=True):
        axis.set_title(title, fontsize=7)
    return figure
