"""Localisation evaluated from map files: is each map bright where the image is a copy, pixel by pixel?

Every map is compared at the latent's resolution, coarser attention maps being interpolated up to it and the
true mask averaged down to it. Beside the maps stand two controls: all ones, and the bright-ending mask with
its positions permuted.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from attn_utils import shuffle_mask
from memorization.data.pictures import read_mask
from memorization.data.prompts import load_prompts
from memorization.errors import InputError
from memorization.evaluation.statistics import (
    auc,
    average_precision,
    best_iou,
    bootstrap_weights,
    cumulative_curve,
    interval_text,
    mean_interval,
    rank_auc,
    resampled_means,
    with_interval,
)
from memorization.files.maps import DIFF_MAPS, load_maps, maps_path
from memorization.tables import Table

BRIGHT_ENDING, WITH_PADDING = "bright ending", "end token + padding"


DIFF = "noise_diff^2"


ALL_ONES, SHUFFLED, PRODUCT = "all ones", f"{BRIGHT_ENDING}, shuffled", f"{BRIGHT_ENDING} x {DIFF}, all steps"


STEPS = (1, 10, None)  # how many first steps of noise_diff^2 are averaged


NUM_THRESHOLDS = 201  # of the data-set-wide IoU, at even quantiles of all pixel values


PROCESSOR_SUFFIX = ".transformer_blocks.0.attn2.processor"


GAIN = "auroc_gain"


MEASURES = {
    "auroc": "pixel AUROC",
    GAIN: "AUROC over bright ending",
    "average_precision": "AP",
    "iou": "IoU, best per image",
}


DATASET_IOU = "iou_dataset"


ALL_KINDS = "all"


ORACLE = "Thresholds of IoU are the best on these images: an oracle"


def layer_name(name):
    """A layer's name as people write it: down_blocks.0.attentions.1."""
    return name.removesuffix(PROCESSOR_SUFFIX)


def candidate_maps(arrays, seeds):
    """Every map that is compared, by name, each float32 (images, height, width) at the latent's size.

    Args:
        arrays: content of a map file.
        seeds: of the images, for the shuffled control.
    """
    diff = torch.from_numpy(arrays[DIFF_MAPS])
    size = diff.shape[-2:]
    ends = {k.removeprefix("end."): resize(v, size) for k, v in arrays.items() if k.startswith("end.")}
    padding = {k.removeprefix("padding."): resize(v, size) for k, v in arrays.items() if k.startswith("padding.")}
    finest = [name for name in ends if name.startswith(first_down_block(ends))]
    mask = torch.stack([ends[name] for name in finest]).mean(0)
    summed = torch.stack([ends[name] + padding[name] for name in finest]).mean(0)
    maps = {BRIGHT_ENDING: mask, WITH_PADDING: summed}
    maps |= {f"end token, {layer_name(name)}": m for name, m in ends.items()}
    maps |= {f"{DIFF}, first {t}" if t else f"{DIFF}, all steps": diff[:, :t].mean(1) for t in steps_of(diff)}
    maps[f"{DIFF}, last step"] = diff[:, -1]
    maps[PRODUCT] = mask * maps[f"{DIFF}, all steps"]
    maps[f"{BRIGHT_ENDING} x {DIFF}, last step"] = mask * diff[:, -1]
    others = {k.removeprefix("map."): resize(v, size) for k, v in arrays.items() if k.startswith("map.")}
    maps |= {name.replace("_", " "): m for name, m in others.items()}
    maps[ALL_ONES] = torch.ones_like(mask)
    maps[SHUFFLED] = shuffle_mask(mask.unsqueeze(1), seeds).squeeze(1)
    return maps


def steps_of(diff):
    return [t for t in STEPS if t is None or t < diff.shape[1]]


def first_down_block(names):
    """Prefix of the finest down block that has cross-attention: where the published mask is read.

    Raises:
        InputError: if no layer is of a down block.
    """
    blocks = sorted(n.split(".attentions")[0] for n in names if n.startswith("down_blocks."))
    if not blocks:
        raise InputError("the map files hold no layer of a down block; they are of another version")
    return blocks[0] + "."


def resize(maps, size):
    maps = torch.from_numpy(maps)
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps.unsqueeze(1), size=tuple(size), mode="bilinear").squeeze(1)


def true_masks(run, dataset=None, mask_folder=None):
    """True mask by prompt index, bool (height, width), from a data set or a folder of INDEX.png.

    Raises:
        InputError: if there is none for any prompt of the run.
    """
    if mask_folder is not None:
        if not Path(mask_folder).is_dir():
            raise InputError(f"mask folder {mask_folder} does not exist; give a folder of INDEX.png")
        paths = {row["index"]: Path(mask_folder) / f"{row['index']}.png" for row in run.rows}
        paths = {index: path for index, path in paths.items() if path.is_file()}
    else:
        records = load_prompts(dataset or run.settings["dataset"])
        paths = {r.index: r.mask_path for r in records if r.mask_path is not None}
    masks = {row["index"]: read_mask(paths[row["index"]]) for row in run.rows if row["index"] in paths}
    if not masks:
        where = mask_folder or dataset or run.settings["dataset"]
        raise InputError(f"{where} has no true masks of the prompts in {run.path}; give --masks FOLDER of INDEX.png")
    return masks


def fit_truth(mask, size):
    """True mask at the maps' size: positions that more than half of lies inside."""
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None, None].float(), tuple(size))
    return (share[0, 0] > 0.5).numpy()


def image_measures(values, truth):
    """AUROC, average precision and best IoU of one map; AUROC is NaN where the mask is all of the image."""
    curve = cumulative_curve(values.ravel(), truth.ravel())
    mixed = truth.any() and not truth.all()
    return {
        "auroc": float(auc(curve)[0]) if mixed else float("nan"),
        "average_precision": float(average_precision(curve)[0]),
        "iou": float(best_iou(curve)[0]),
    }


def collect(runs, dataset=None, mask_folder=None):
    """All maps and true masks of the prompts that have one.

    Returns:
        (maps by name, each (images, height, width); truths (images, height, width); prompts and kinds, lists
        with one entry an image).
    """
    maps, truths, prompts, kinds = {}, [], [], []
    masks = {run.path: true_masks(run, dataset, mask_folder) for run in runs}
    pairs = [(run, row) for run in runs for row in run.rows if row["index"] in masks[run.path]]
    with tqdm(pairs, desc="maps", unit="prompt") as bar:
        for run, row in bar:
            arrays = load_maps(maps_path(run.folder, run.key, row["index"]), len(row["seeds"]))
            found = candidate_maps(arrays, row["seeds"])
            for name, m in found.items():
                maps.setdefault(name, []).append(m.numpy())
            truth = fit_truth(masks[run.path][row["index"]], found[BRIGHT_ENDING].shape[-2:])
            if not truth.any():
                raise InputError(f"the true mask of prompt {row['index']} is empty at the maps' size; remove it")
            count = len(row["seeds"])
            truths += [truth] * count
            prompts += [row["prompt"]] * count
            kinds += [row.get("kind") or "memorized"] * count
    return {name: np.concatenate(m) for name, m in maps.items()}, np.stack(truths), np.array(prompts), np.array(kinds)


def auroc_by_step(runs, dataset=None, mask_folder=None):
    """Mean pixel AUROC of noise_diff^2 at every single step and averaged up to it, over prompts with a part mask.

    Returns:
        Two arrays (steps,); None without such prompts.
    """
    values = []
    for run in runs:
        masks = {i: m for i, m in true_masks(run, dataset, mask_folder).items() if not m.all()}
        for row in tqdm([r for r in run.rows if r["index"] in masks], desc="steps", unit="prompt"):
            diff = load_maps(maps_path(run.folder, run.key, row["index"]), len(row["seeds"]))[DIFF_MAPS]
            running = np.cumsum(diff, 1) / np.arange(1, diff.shape[1] + 1)[:, None, None]
            truth = fit_truth(masks[row["index"]], diff.shape[-2:])
            values += [[step_aurocs(maps, truth) for maps in pair] for pair in zip(diff, running, strict=True)]
    return tuple(np.mean(values, 0)) if values else None


def step_aurocs(maps, truth):
    return [rank_auc(m[truth], m[~truth]) for m in maps]


def evaluate_localisation(runs, dataset=None, mask_folder=None, replicates=1000, seed=0):
    """Measures with intervals of every map, for every kind of prompt: a list of result dicts.

    `auroc_gain` is the AUROC less that of the bright-ending mask on the same image.
    """
    maps, truths, prompts, kinds = collect(runs, dataset, mask_folder)
    results, published = [], None
    for name, values in tqdm(maps.items(), desc="localisation", unit="map"):
        measured = [image_measures(v, t) for v, t in zip(values, truths, strict=True)]
        # The bright ending comes first: every other map is compared with it on the same image.
        published = [m["auroc"] for m in measured] if name == BRIGHT_ENDING else published
        measured = [m | {GAIN: m["auroc"] - p} for m, p in zip(measured, published, strict=True)]
        for kind in kinds_of(kinds):
            of = np.flatnonzero((kinds == kind) | (kind == ALL_KINDS))
            row = {
                m: mean_interval([measured[i][m] for i in of], prompts[of], replicates, seed) for m in MEASURES
            } | {DATASET_IOU: dataset_iou(values[of], truths[of], prompts[of], replicates, seed)}  # fmt: skip
            counts = {"prompts": len(set(prompts[of].tolist())), "images": len(of)}
            results.append({"kind": kind, "map": name, **row, **counts})
    return results


def kinds_of(kinds):
    """The kinds, and all of them together where there are several."""
    names = list(dict.fromkeys(kinds.tolist()))
    return [*names, ALL_KINDS] if len(names) > 1 else names


def dataset_iou(values, truths, prompts, replicates, seed):
    """IoU at the one threshold that is best for all images together, an oracle, with its interval.

    Raw values are thresholded, without stretching each image first; the best threshold is sought anew in
    every replicate.
    """
    thresholds = np.unique(np.quantile(values, np.linspace(0, 1, NUM_THRESHOLDS)))
    truths = truths.reshape(len(truths), -1)
    ious = np.stack([threshold_iou(values.reshape(len(values), -1) >= t, truths) for t in thresholds], 1)
    best = resampled_means(ious, bootstrap_weights(prompts, replicates, seed)).max(1)
    return with_interval(ious.mean(0).max(), best)


def threshold_iou(predicted, truths):
    return (predicted & truths).sum(1) / (predicted | truths).sum(1)


def localisation_tables(results):
    """A `Table` for each kind of prompt, the best AUROC first."""
    columns = {**MEASURES, DATASET_IOU: "IoU, one threshold"}
    tables = []
    for kind in dict.fromkeys(r["kind"] for r in results):
        some = [r for r in results if r["kind"] == kind]
        caption = f"{kind} ({some[0]['prompts']} prompts, {some[0]['images']} images)"
        if not any(np.isfinite(r["auroc"]["value"]) for r in some):
            tables.append(Table(caption, [], [], "The true mask is the whole image: nothing to localise."))
            continue
        some.sort(key=lambda r: -r["auroc"]["value"])
        tables.append(Table(caption, ["map", *columns.values()], [localisation_cells(r, columns) for r in some]))
    return tables


def localisation_cells(result, columns):
    return [result["map"], *(interval_text(result[m]) for m in columns)]
