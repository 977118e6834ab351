"""What the bundled model is measured by: copies, asked objects, detection, localisation; intervals are over prompts.

Pure functions from generated images to a report. Every number of it is an `Entry`; directions: higher = memorized for
scores, brighter = copied for maps, lower = nearer for errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import PromptRecord
from memorization.evaluation.candidate_maps import candidate_maps, layer_name
from memorization.evaluation.detection_metrics import auc_measure
from memorization.evaluation.localisation import fit_truth, image_measures
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import UNIT, USUAL, Measure, mean_interval, with_bootstrap_interval
from memorization.files.maps import DIFF_MAPS, END, PADDING
from memorization.observation import Observation
from memorization.scores import HORIZONS, known_first, score_label
from memorization.similarity.pixels import similarity_to_references
from noise_norms import leading_mean
from planted.making.drawn.probe import Probe, probe_accuracy

COPY_RMSE = 0.12  # root mean squared pixel error in [0, 1] below which a region counts as copied
KINDS, OTHERS = ("verbatim", "template"), ("nonmemorized", "near_miss")
MEMORIZED = "memorized"  # both kinds together
PAIRS = tuple(f"{kind} vs {other}" for other in OTHERS for kind in KINDS)

Entry = dict[str, Any]  # "value", "interval" [low, high], "n" items (images, if not told otherwise), "prompts"
Report = dict[str, Any]  # entries by name, in one level or two


@dataclass(frozen=True)
class Generated:
    """A prompt file and what was generated for it: `count` images per prompt, in the order of the prompts.

    Attributes:
        images: uint8 (images, height, width, 3).
        observed: scores of the usual detectors, noise-difference maps, end-token attention of every layer.
        seeds: of each image.
    """

    records: Sequence[PromptRecord]
    count: int
    images: np.ndarray
    observed: Observation
    seeds: Sequence[int]

    @property
    def per_prompt(self) -> np.ndarray:
        """Images by prompt, (prompts, count, height, width, 3)."""
        return self.images.reshape(len(self.records), self.count, *self.images.shape[1:])

    @property
    def prompts(self) -> np.ndarray:
        """The prompt of each image, (images,)."""
        return np.repeat([r.prompt for r in self.records], self.count)

    @property
    def kinds(self) -> np.ndarray:
        """The kind of each image's prompt, (images,)."""
        return np.repeat([str(r.kind) for r in self.records], self.count)


# Numbers with intervals


def entry(measure: Measure, groups: npt.ArrayLike) -> Entry:
    """A measure of items as the report holds it; `groups` has the prompt of each item."""
    names = np.asarray(groups)
    interval = [float(measure["low"]), float(measure["high"])]
    value = float(measure["value"])
    return {"value": value, "interval": interval, "n": len(names), "prompts": len(np.unique(names))}


def share(flags: npt.ArrayLike, groups: npt.ArrayLike) -> Entry:
    return entry(share_measure(flags, groups), groups)


def mean(values: npt.ArrayLike, groups: npt.ArrayLike) -> Entry:
    return entry(mean_interval(values, groups), groups)


def bounded_mean(values: npt.ArrayLike, groups: npt.ArrayLike) -> Entry:
    """Of values in [0, 1]."""
    return entry(mean_interval(values, groups, within=UNIT), groups)


def resampled(statistic: Callable[[np.ndarray], Any], groups: npt.ArrayLike) -> Entry:
    """A statistic with its interval by resampling prompts.

    Args:
        statistic: from indices of items, which may occur several times, to a number.
        groups: the prompt of each item, (items,).
    """
    names = np.asarray(groups)
    rows = np.arange(len(names))
    replicates = [statistic(np.repeat(rows, counts.astype(int))) for counts in USUAL.weights(names)]
    return entry(with_bootstrap_interval(statistic(rows), replicates, len(np.unique(names))), names)


def median(values: np.ndarray, groups: npt.ArrayLike) -> Entry:
    return resampled(lambda rows: np.median(values[rows]), groups)


# Copies


def check_copies(runs: Mapping[str, Generated]) -> Report:
    """Copies of planted prompts, false copies of the others, and how much free regions vary.

    Args:
        runs: "memorized", and the two sets of others.
    """
    memorized = runs[MEMORIZED]
    report, errors = {}, own_errors(memorized)
    for kind, what in zip(KINDS, ("verbatim", "template_region"), strict=True):
        of = memorized.kinds == kind
        report[f"{what}_copied"] = share(errors[of] < COPY_RMSE, memorized.prompts[of])
        report[f"{what}_median_rmse"] = median(errors[of], memorized.prompts[of])
    for name in OTHERS:
        nearest = nearest_errors(memorized.records, runs[name].images)
        report[f"false_copies_{name}"] = share(nearest < COPY_RMSE, runs[name].prompts)
        report[f"{name}_median_rmse_to_nearest"] = median(nearest, runs[name].prompts)
    report["free_over_fixed_mse_between_seeds"] = free_over_fixed(memorized)
    training = np.stack([read_image(r.reference_images[0]) for r in memorized.records])
    report["saturated_pixels"] = bounded_mean(saturated(memorized.images), memorized.prompts)
    report["saturated_pixels_in_training_images"] = bounded_mean(saturated(training), np.arange(len(training)))
    return report


def errors_to(record: PromptRecord, images: np.ndarray) -> np.ndarray:
    """Root mean squared error in [0, 1] to a prompt's first training image, over its true mask; (images,)."""
    first = replace(record, reference_images=record.reference_images[:1])
    return 1 - np.array(similarity_to_references(images, first))


def own_errors(memorized: Generated) -> np.ndarray:
    """Error of each image to what its own prompt repeats, (images,)."""
    pairs = zip(memorized.records, memorized.per_prompt, strict=True)
    return np.concatenate([errors_to(record, images) for record, images in pairs])


def nearest_errors(records: Sequence[PromptRecord], images: np.ndarray) -> np.ndarray:
    """Error of each image to the nearest of all planted pictures and regions, (images,)."""
    return np.min([errors_to(record, images) for record in records], axis=0)


def saturated(images: np.ndarray) -> np.ndarray:
    """Share of an image's pixel values that are 0 or 255, (images,)."""
    return ((images == 0) | (images == 255)).mean((1, 2, 3))


def free_over_fixed(memorized: Generated) -> Entry:
    """How much more two images of a template differ in its free region than in its fixed one, in MSE; `n` are pairs."""
    fixed, free, prompts = [], [], []
    for record, images in zip(memorized.records, memorized.per_prompt, strict=True):
        if record.kind == "template":
            mask = true_mask(record)
            for a, b in combinations(images.astype(np.float32) / 255, 2):
                squares = (a - b) ** 2
                fixed.append(squares[mask].mean())
                free.append(squares[~mask].mean())
                prompts.append(record.prompt)
    inside, outside = np.array(fixed), np.array(free)
    return resampled(lambda rows: outside[rows].mean() / inside[rows].mean(), prompts)


def true_mask(record: PromptRecord) -> np.ndarray:
    """Where a planted prompt's picture is a copy, bool (height, width)."""
    assert record.mask_path is not None
    return read_mask(record.mask_path)


# What was asked for


def check_probe(probe: Probe, run: Generated) -> Report:
    """Share of images of object prompts that show the asked object, its colour, and both ("all")."""
    of = np.flatnonzero(run.kinds == "object")
    prompts = run.prompts[of]
    right = probe_accuracy(probe, [run.images[k] for k in of], prompts.tolist())
    return {name: share(flags, prompts) for name, flags in right.items()}


# Detection


def detection_scores(observed: Observation) -> dict[str, np.ndarray]:
    """Every score at every T, (images,) each; higher = memorized."""
    scores = {}
    for key in known_first(observed.scores):
        values = observed.scores[key]
        steps = values.shape[1] if values.ndim == 2 else 0
        for t in (t for t in HORIZONS if t is None or t < steps):
            scores[score_label(key, t)] = (leading_mean(values, t) if steps else values).cpu().numpy()
    layers = {layer_name(name): columns.end.mean((1, 2)) for name, columns in observed.columns.items()}
    return scores | {f"end-token attention, {name}": values.cpu().numpy() for name, values in layers.items()}


def check_detection(runs: Mapping[str, Generated]) -> dict[str, Report]:
    """AUC per image of every score, each kind of planted prompts and both together against each set of others."""
    scores = {name: detection_scores(run.observed) for name, run in runs.items() if name in (MEMORIZED, *OTHERS)}
    kinds = runs[MEMORIZED].kinds
    report = {}
    for score in scores[MEMORIZED]:
        parts = {name: (scores[name][score], runs[name].prompts) for name in scores}
        whole, prompts = parts.pop(MEMORIZED)
        planted = {kind: (whole[kinds == kind], prompts[kinds == kind]) for kind in KINDS}
        planted[MEMORIZED] = whole, prompts
        row: Report = {f"{kind} vs {name}": auc(planted[kind], parts[name]) for name in OTHERS for kind in planted}
        row["means"] = {name: mean(*part) for name, part in (planted | parts).items()}
        report[score] = row
    return report


def auc(memorized: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> Entry:
    """AUC of two classes, each the scores and the prompts of its images, (images,) each."""
    scores, groups = (np.concatenate(pair) for pair in zip(memorized, others, strict=True))
    labels = np.arange(len(scores)) < len(memorized[0])
    return entry(auc_measure(scores, labels, groups), groups)


# Localisation


def check_localisation(memorized: Generated) -> Report:
    """Pixel AUROC of every map and of the shuffled control against the true masks of the templates' images."""
    rows = np.flatnonzero(memorized.kinds == "template")
    maps = candidate_maps(map_arrays(memorized.observed, rows), [memorized.seeds[k] for k in rows.tolist()])
    size = next(iter(maps.values())).shape[-2:]
    truths = [fit_truth(true_mask(memorized.records[k // memorized.count]), size) for k in rows]
    report = {}
    for name, values in maps.items():
        found = [image_measures(v, t)["auroc"] for v, t in zip(values.numpy(), truths, strict=True)]
        report[name] = bounded_mean(found, memorized.prompts[rows])
    return report


def map_arrays(observed: Observation, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Maps of some images by the names that files of maps have, float32 (images, ..., height, width)."""
    arrays = {DIFF_MAPS: observed.diff_maps}
    arrays |= {END + name: columns.end for name, columns in observed.columns.items()}
    arrays |= {PADDING + name: columns.padding for name, columns in observed.columns.items()}
    return {name: values.cpu().numpy()[rows].astype(np.float32) for name, values in arrays.items()}
