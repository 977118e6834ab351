"""Localisation evaluated from map files: is each map bright where the image is a copy, pixel by pixel?

Every map is compared at the latent's resolution, coarser attention maps being interpolated up to it and the
true mask averaged down to it. Beside the maps stand two controls: all ones, and the bright-ending mask with
its positions permuted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from memorization.data.pictures import read_mask
from memorization.data.prompts import load_prompts
from memorization.errors import InputError
from memorization.evaluation.candidate_maps import BRIGHT_ENDING, candidate_maps
from memorization.evaluation.classes import Row
from memorization.evaluation.curves import auc, average_precision, best_iou, cumulative_curve, rank_auc
from memorization.evaluation.statistics import (
    UNIT,
    USUAL,
    BootstrapSettings,
    Measure,
    Result,
    interval_text,
    mean_interval,
)
from memorization.files.maps import DIFF_MAPS, load_maps
from memorization.files.pixels import picture_named
from memorization.finished_runs import Run
from memorization.tables import Table

NUM_THRESHOLDS = 201  # of the data-set-wide IoU, at even quantiles of all pixel values
GAIN, DATASET_IOU = "auroc_gain", "iou_dataset"
MEASURES = {
    "auroc": "pixel AUROC",
    GAIN: "AUROC over bright ending",
    "average_precision": "AP",
    "iou": "IoU, best per image",
}
WITHIN = dict.fromkeys(MEASURES, UNIT) | {GAIN: (-1.0, 1.0)}  # what each can be
COLUMNS = {**MEASURES, DATASET_IOU: "IoU, one threshold"}
ALL_KINDS = "all"
ORACLE = "Thresholds of IoU are the best on these images: an oracle"


@dataclass(frozen=True)
class Located:
    """Images whose true mask is known.

    Attributes:
        maps: every candidate by name, each float32 (images, height, width).
        truths: true masks, bool (images, height, width).
        prompts, kinds: of each image, (images,).
    """

    maps: dict[str, np.ndarray]
    truths: np.ndarray
    prompts: np.ndarray
    kinds: np.ndarray

    def of_kind(self, kind: str) -> np.ndarray:
        """Which images are of a kind, or of any: indices."""
        return np.flatnonzero((self.kinds == kind) | (kind == ALL_KINDS))

    def kind_names(self) -> list[str]:
        """The kinds, and all of them together where there are several."""
        names = list(dict.fromkeys(self.kinds.tolist()))
        return [*names, ALL_KINDS] if len(names) > 1 else names


def run_maps(run: Run, row: Row) -> dict[str, np.ndarray]:
    """Content of the map file of one prompt of a run.

    Raises:
        InputError: if it is missing or damaged.
    """
    return load_maps(run.files.map(row["index"]), len(row["seeds"]))


def true_masks(run: Run, dataset: str | None = None, mask_folder: str | Path | None = None) -> dict[int, np.ndarray]:
    """True mask by prompt index, bool (height, width), from a data set or a folder of INDEX.png.

    Raises:
        InputError: if there is none for any prompt of the run.
    """
    if mask_folder is not None:
        if not Path(mask_folder).is_dir():
            raise InputError(f"mask folder {mask_folder} does not exist; give a folder of INDEX.png")
        named = {row["index"]: picture_named(Path(mask_folder), row["index"]) for row in run.rows}
        paths = {index: path for index, path in named.items() if path is not None}
    else:
        prompt_key = run.settings.get("prompt_key") if dataset is None else None
        records = load_prompts(dataset or run.settings["dataset"], prompt_key=prompt_key)
        paths = {r.index: r.mask_path for r in records if r.mask_path is not None}
    masks = {row["index"]: read_mask(paths[row["index"]]) for row in run.rows if row["index"] in paths}
    if not masks:
        where = mask_folder or dataset or run.settings["dataset"]
        raise InputError(f"{where} has no true masks of the prompts in {run.path}; give --masks FOLDER of INDEX.png")
    return masks


def fit_truth(mask: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """True mask at the maps' size, bool: positions that more than half of lies inside."""
    share = F.adaptive_avg_pool2d(torch.from_numpy(mask)[None, None].float(), (size[0], size[1]))
    return (share[0, 0] > 0.5).numpy()


def image_measures(values: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """AUROC, average precision and best IoU of one map; AUROC is NaN where the mask is all of the image."""
    curve = cumulative_curve(values.ravel(), truth.ravel())
    mixed = truth.any() and not truth.all()
    return {
        "auroc": auc(curve) if mixed else float("nan"),
        "average_precision": average_precision(curve),
        "iou": best_iou(curve),
    }


def collect(runs: Sequence[Run], dataset: str | None = None, mask_folder: str | Path | None = None) -> Located:
    """All maps and true masks of the prompts that have one.

    Raises:
        InputError: if maps or masks are missing, damaged, or a mask is empty at the maps' size.
    """
    maps: dict[str, list[np.ndarray]] = {}
    truths, prompts, kinds = [], [], []
    masks = {run.path: true_masks(run, dataset, mask_folder) for run in runs}
    pairs = [(run, row) for run in runs for row in run.rows if row["index"] in masks[run.path]]
    with tqdm(pairs, desc="maps", unit="prompt") as bar:
        for run, row in bar:
            found = candidate_maps(run_maps(run, row), row["seeds"])
            for name, values in found.items():
                maps.setdefault(name, []).append(values.numpy())
            truth = fit_truth(masks[run.path][row["index"]], found[BRIGHT_ENDING].shape[-2:])
            if not truth.any():
                raise InputError(f"the true mask of prompt {row['index']} is empty at the maps' size; remove it")
            count = len(row["seeds"])
            truths += [truth] * count
            prompts += [row["prompt"]] * count
            kinds += [row.get("kind") or "memorized"] * count
    whole = {name: np.concatenate(values) for name, values in maps.items()}
    return Located(whole, np.stack(truths), np.array(prompts), np.array(kinds))


def auroc_by_step(
    runs: Sequence[Run], dataset: str | None = None, mask_folder: str | Path | None = None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean pixel AUROC of noise_diff^2 at every single step and averaged up to it, over prompts with a part mask.

    Returns:
        Two arrays (steps,); None without such prompts.
    """
    single, running = [], []
    for run in runs:
        masks = {i: m for i, m in true_masks(run, dataset, mask_folder).items() if not m.all()}
        for row in tqdm([r for r in run.rows if r["index"] in masks], desc="steps", unit="prompt"):
            diff = run_maps(run, row)[DIFF_MAPS]
            truth = fit_truth(masks[row["index"]], diff.shape[-2:])
            means = np.cumsum(diff, 1) / np.arange(1, diff.shape[1] + 1)[:, None, None]
            single += [step_aurocs(maps, truth) for maps in diff]
            running += [step_aurocs(maps, truth) for maps in means]
    return (np.mean(single, 0), np.mean(running, 0)) if single else None


def step_aurocs(maps: np.ndarray, truth: np.ndarray) -> list[float]:
    """Pixel AUROC of every step of one image, maps (steps, height, width)."""
    return [rank_auc(m[truth], m[~truth]) for m in maps]


def evaluate_localisation(
    runs: Sequence[Run],
    dataset: str | None = None,
    mask_folder: str | Path | None = None,
    bootstrap: BootstrapSettings = USUAL,
) -> list[Result]:
    """Measures with intervals of every map, one result per map and kind of prompt.

    `auroc_gain` is the AUROC less that of the bright-ending mask on the same image.

    Args:
        runs: of detect_mem.py --store_maps.
        dataset: with true masks; the run's own by default.
        mask_folder: folder of true masks INDEX.png, instead of a data set's.
    """
    located = collect(runs, dataset, mask_folder)
    results: list[Result] = []
    published = [float("nan")] * len(located.truths)
    for name, values in tqdm(located.maps.items(), desc="localisation", unit="map"):
        measured = [image_measures(v, t) for v, t in zip(values, located.truths, strict=True)]
        if name == BRIGHT_ENDING:  # the first: every other map is compared with it on the same image
            published = [m["auroc"] for m in measured]
        measured = [m | {GAIN: m["auroc"] - p} for m, p in zip(measured, published, strict=True)]
        for kind in located.kind_names():
            of = located.of_kind(kind)
            prompts = located.prompts[of]
            result: Result = {"kind": kind, "map": name}
            for key, within in WITHIN.items():
                found = [measured[i][key] for i in of]
                result[key] = mean_interval(found, prompts, bootstrap, within)
            result[DATASET_IOU] = dataset_iou(values[of], located.truths[of], prompts, bootstrap)
            results.append(result | {"prompts": len(set(prompts.tolist())), "images": len(of)})
    return results


def dataset_iou(
    values: np.ndarray, truths: np.ndarray, prompts: np.ndarray, bootstrap: BootstrapSettings = USUAL
) -> Measure:
    """IoU at the one threshold that is best for all images together, an oracle, with its interval.

    Raw values are thresholded, without stretching each image first; the interval is of the mean at that threshold.

    Args:
        values, truths: (images, height, width).
        prompts: of each image, (images,).
    """
    thresholds = np.unique(np.quantile(values, np.linspace(0, 1, NUM_THRESHOLDS)))
    truths = truths.reshape(len(truths), -1)
    ious = np.stack([threshold_iou(values.reshape(len(values), -1) >= t, truths) for t in thresholds], 1)
    return mean_interval(ious[:, ious.mean(0).argmax()], prompts, bootstrap, UNIT)


def threshold_iou(predicted: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Intersection over union per image, (images,), of bool arrays (images, pixels)."""
    return (predicted & truths).sum(1) / (predicted | truths).sum(1)


def localisation_tables(results: Sequence[Result]) -> list[Table]:
    """A `Table` for each kind of prompt, the best AUROC first."""
    tables = []
    for kind in dict.fromkeys(r["kind"] for r in results):
        some = [r for r in results if r["kind"] == kind]
        caption = f"{kind} ({some[0]['prompts']} prompts, {some[0]['images']} images)"
        if not any(np.isfinite(r["auroc"]["value"]) for r in some):
            tables.append(Table(caption, [], [], "The true mask is the whole image: nothing to localise."))
            continue
        some.sort(key=lambda r: -r["auroc"]["value"])
        rows = [[r["map"], *(interval_text(r[m]) for m in COLUMNS)] for r in some]
        tables.append(Table(caption, ["map", *COLUMNS.values()], rows))
    return tables
