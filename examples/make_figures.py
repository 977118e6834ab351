"""Draw the pictures of a finished quickstart from its result files; no model is loaded.

    python examples/make_figures.py --output_dir quickstart_output

detection.png    a globally memorized, a locally memorized and a normal prompt: image, masks, score curves
scores.png       scores of all prompts: curves over steps, and each image's score by kind
mitigation.png   before-after strips, one column per mitigation
summary.md       the tables
"""

import argparse
import json
from pathlib import Path

import matplotlib

from memorization.bundled import PLANTED

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from memorization.data.pictures import read_image, read_mask
from memorization.evaluation.detection import summary
from memorization.files.masks import open_masks
from memorization.files.whole import read_png
from memorization.tables import format_table

KINDS = {"verbatim": "#d1495b", "template": "#edae49", "normal": "#3d6f8e"}
TITLES = {"verbatim": "memorized, global", "template": "memorized, local", "normal": "not memorized"}
GROUND_TRUTH = PLANTED / "planted_mem_groundtruth"


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def kind_of(row):
    return row["kind"] if row["is_memorized"] else "normal"


def image_of(folder, row, k=0):
    return read_png(folder / f"{row['index']}_{row['seeds'][k]}.png")


def read_masks(path):
    """Masks by (prompt index, seed)."""
    return {key: mask.astype(np.float32) for key, mask in open_masks(path).masks.items()}


def true_mask(index):
    return read_mask(GROUND_TRUTH / "gt_masks" / f"{index}.png")


def training_image(index):
    return read_image(GROUND_TRUTH / "gt_images" / str(index) / "0.png")


def show(axis, image, title=None, **kwargs):
    axis.imshow(image, **kwargs)
    axis.set_xticks([])
    axis.set_yticks([])
    if title:
        axis.set_title(title, fontsize=9)


def show_mask(axis, image, mask, truth, brightest):
    """The mask as heat over the grey image; the border of the true mask in white."""
    height, width = image.shape[:2]
    show(axis, image.mean(2), cmap="gray", extent=(0, width, height, 0), alpha=0.5)
    axis.imshow(mask, cmap="inferno", vmin=0, vmax=brightest, extent=(0, width, height, 0), alpha=0.75)
    if truth is not None and not truth.all():
        axis.contour(truth.astype(float), levels=[0.5], colors="white", linewidths=2)
    if truth is not None and truth.all():
        for side in axis.spines.values():
            side.set(color="black", linewidth=3)


def curves(axis, rows, key, color, label=None):
    """Mean over images and the middle half of them, per step."""
    values = np.array([norms for row in rows for norms in row[key]])
    steps = np.arange(1, values.shape[1] + 1)
    axis.plot(steps, values.mean(0), color=color, label=label)
    low, high = np.quantile(values, (0.25, 0.75), axis=0)
    axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)


def draw_detection(rows, masks, images, path):
    """One prompt of each kind, the one whose end-token attention is its kind's median."""
    examples = {kind: [r for r in rows if kind_of(r) == kind] for kind in KINDS}
    figure, axes = plt.subplots(3, 5, figsize=(13, 7.6), layout="constrained", width_ratios=[1, 1, 1, 1.5, 1.5])
    brightest = np.quantile([m.max() for m in masks.values()], 0.9)
    for line, (kind, some) in zip(axes, examples.items(), strict=True):
        row = sorted(some, key=lambda r: r["end_token_attention"][0])[len(some) // 2]
        image, truth = image_of(images, row), true_mask(row["index"]) if row["is_memorized"] else None
        reference = training_image(row["index"]) if row["is_memorized"] else np.full_like(image, 235)
        show(line[0], reference, "training image" if row["is_memorized"] else "no training image")
        show(line[1], image, "generated")
        line[1].set_xlabel(f"“{row['prompt']}”", fontsize=8)
        show_mask(line[2], image, masks[row["index"], row["seeds"][0]], truth, brightest)
        line[2].set_title("bright ending" + ("; true mask outlined" if row["is_memorized"] else ""), fontsize=9)
        line[0].set_ylabel(TITLES[kind], fontsize=11)
        for axis, key, name in (
            (line[3], "text_noise_norm", "D"),
            (line[4], "text_noise_norm_masked", "LD"),
        ):
            axis.plot(np.arange(1, len(row[key][0]) + 1), row[key][0], color=KINDS[kind])
            axis.set_title(f"{name} at each step", fontsize=9)
            axis.set_ylim(0, 1.05 * max(r[key][0][t] for r in rows for t in range(len(r[key][0]))))
    figure.savefig(path, dpi=100)


def draw_scores(rows, path):
    """Curves over steps and per-image scores of all prompts, by kind."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.8), layout="constrained")
    scores = {
        "D, first step": lambda r: [norms[0] for norms in r["text_noise_norm"]],
        "end-token attention": lambda r: r["end_token_attention"],
    }
    for kind, color in KINDS.items():
        some = [r for r in rows if kind_of(r) == kind]
        curves(axes[0], some, "text_noise_norm", color, TITLES[kind])
        curves(axes[1], some, "text_noise_norm_masked", color)
        for axis, (name, score) in zip(axes[2:], scores.items(), strict=True):
            values = np.array([v for r in some for v in score(r)])
            jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))
            axis.scatter(list(KINDS).index(kind) + jitter, values, s=12, color=color)
            axis.set_xticks(range(3), [TITLES[k].replace(", ", ",\n") for k in KINDS], fontsize=8)
            axis.set_title(f"{name}, one dot an image", fontsize=10)
    axes[0].set_title("D at each step (band: middle half)", fontsize=10)
    axes[1].set_title("LD at each step (band: middle half)", fontsize=10)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)


def draw_mitigation(runs, folder, path):
    """Strips: the training image, then the same seed under every method."""
    first = next(iter(runs.values()))
    half = len(first) // 2
    rows = [*range(min(3, half)), *range(half, min(half + 3, len(first)))]
    size = (1.5 * (len(runs) + 1), 1.62 * len(rows))
    figure, axes = plt.subplots(len(rows), len(runs) + 1, figsize=size, layout="constrained")
    for axis, title in zip(axes[0], ["training image", *runs], strict=True):
        axis.set_title(title, fontsize=9)
    for line, k in zip(axes, rows, strict=True):
        row = first[k]
        show(line[0], training_image(row["index"]))
        line[0].set_ylabel(row["kind"], fontsize=9)
        for axis, method_rows in zip(line[1:], runs.values(), strict=True):
            image = image_of(folder / method_rows[k]["run"], method_rows[k])
            show(axis, image)
            axis.set_xlabel(f"similarity {method_rows[k]['pixel_similarity'][0]:.2f}", fontsize=7)
    figure.savefig(path, dpi=80)


def read_mitigations(output):
    """Rows of every mitigation run, by the name of its method; plain generation first."""
    runs = {}
    for path in sorted((output / "det_outputs").glob("*_mitigation.jsonl")):
        rows = read_rows(path)
        run = path.name.removesuffix("_mitigation.jsonl")
        runs[rows[0]["method"]] = [row | {"run": run} for row in rows]
    return dict(sorted(runs.items(), key=lambda item: item[0] != "none"))


def mitigation_table(runs):
    """Markdown table: similarity to the training image by kind, how often it fired, what it cost."""
    kinds = ("verbatim", "template")
    table = []
    for method, rows in runs.items():
        similarity = [np.mean([v for r in rows if r["kind"] == k for v in r["pixel_similarity"]]) for k in kinds]
        triggered = [t for r in rows for t in r["triggered"]]
        evals = np.mean([r["unet_evals_per_image"] + r.get("mask_evals_per_image", 0) for r in rows])
        table.append([method, *map(float, similarity), f"{sum(triggered)} of {len(triggered)}", f"{evals:.1f}"])
    headers = ["method", *(f"similarity, {k}" for k in kinds), "triggered", "UNet evaluations per image"]
    return format_table(headers, table)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("quickstart_output"))
    parser.add_argument("--run_name", default="quickstart", help="of the detection run")
    args = parser.parse_args(argv)
    output, key = args.output_dir, f"{args.run_name}_ours"
    rows = read_rows(output / "det_outputs" / f"{key}.jsonl")
    masks = read_masks(output / "attn_data" / f"{key}_attention_scores.npz")
    draw_detection(rows, masks, output / "images_data" / key, output / "detection.png")
    draw_scores(rows, output / "scores.png")
    runs = read_mitigations(output)
    draw_mitigation(runs, output / "images_data", output / "mitigation.png")
    table = mitigation_table(runs)
    print(table)
    (output / "summary.md").write_text(summary_page(rows, table))
    for name in ("detection.png", "scores.png", "mitigation.png", "summary.md"):
        print(output / name)


def summary_page(rows, table):
    return (
        f"# Detection\n\n{summary(rows)}\n\n![](detection.png)\n\n![](scores.png)\n\n"
        f"# Mitigation\n\n{table}\n\n![](mitigation.png)\n"
    )


if __name__ == "__main__":
    main()
