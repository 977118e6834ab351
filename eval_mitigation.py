"""Mitigation evaluated from images: does it remove the copy, and is the image still what was asked for?

Privacy is similarity to the training images (SSCD, LS, S, pixels), utility similarity to the prompt (CLIP).
All runs must be of the same prompts and seeds, so that every comparison is of the same noise under two
methods, and intervals come from resampling prompts for all runs together.
"""

import re
from dataclasses import dataclass, field

import numpy as np
from tqdm import tqdm

from data_utils import load_prompts, read_image
from eval_tradeoff import PLAIN, add_areas, tradeoff_tables
from eval_utils import interval_text, mean_interval
from mask_files import MaskStore
from result_files import MODEL_SETTINGS, check_same_model
from run_utils import InputError, Table, input_errors
from similarity import (
    COPY_SIMILARITY,
    LOCAL_COPY,
    copy_similarity,
    local_similarity,
    seed_diversity,
    similarity_to_references,
)

MEASURES = {
    "sscd": "SSCD", "copied": f"share SSCD > {COPY_SIMILARITY}", "clip": "CLIP", "ls": "LS", "s": "S",
    "local_copied": f"share LS > {LOCAL_COPY}", "lpips": "LPIPS", "pixel": "pixel similarity",
    "diversity": "diversity",
}  # fmt: skip
STRENGTHS = {"gni": ("rand_noise_lam",), **dict.fromkeys(("rna", "rt", "cwr"), ("repeat_num",))}


@dataclass(frozen=True)
class Evaluators:
    """What images are measured with; None leaves the measure out. `masks` are for LS: (index, seed) to array."""

    descriptor: object = None
    clip: object = None
    perceptual: object = None
    masks: dict = field(default_factory=dict)

    def describe(self):
        """What has to stand beside the numbers."""
        named = {"SSCD": self.descriptor, "CLIP": self.clip, "LPIPS": self.perceptual}
        parts = [f"{name}: {tool.description}" for name, tool in named.items() if tool is not None]
        if self.descriptor is not None:
            parts.append("SSCD is the maximum over training images, then the mean over generations")
        if self.masks:
            parts.append("LS: mask of the unmitigated image over its maximum, pixels in [0, 1], scaled to 512 px")
        return "; ".join(parts)


def method_of(run):
    """Method of a mitigation run without its strength: rna, not rna4."""
    return re.sub(r"^(rna|rt|cwr)\d+", r"\1", run.rows[0]["method"])


def strength_of(run):
    """The documented strength of the run's method: PE's or SS's target, noise scale, number of words."""
    given = [run.settings[n] for n in strength_names(run) if run.settings.get(n) is not None]
    return float(given[0]) if given else 0.0


def strength_names(run):
    """Settings that may hold the strength of the run's method."""
    if run.settings.get("method") is not None:
        return ("strength",)
    return STRENGTHS.get(method_of(run), () if method_of(run) == PLAIN else ("l_target_ss", "optim_target_loss"))


def weakest_first(run):
    """Sorts a method's runs by strength: a low target is strong, much noise and many words are."""
    is_target = not {"rand_noise_lam", "repeat_num", "strength"} & set(strength_names(run))
    return -strength_of(run) if is_target else strength_of(run)


def by_strength(runs):
    """Runs in the order of method and strength, plain generation first."""
    return sorted(runs, key=lambda run: (method_of(run) != PLAIN, method_of(run), weakest_first(run)))


def strongest_runs(runs):
    """One run of every method, its strongest, plain generation first: what pictures show."""
    return list({method_of(run): run for run in by_strength(runs)}.values())


def load_references(run, dataset=None):
    """Records with training images by prompt index, for every row of a run.

    Raises:
        InputError: if a prompt has no training images, or is another one in the data set.
    """
    name = dataset or run.settings["dataset"]
    records = {r.index: r for r in load_prompts(name, clean_prompts=run.settings.get("clean_prompts", True))}
    for row in run.rows:
        record = records.get(row["index"])
        if record is None or not record.reference_images:
            raise InputError(f"{name} has no training images of prompt {row['index']}; give --dataset *_groundtruth")
        if record.prompt != row["prompt"]:
            raise InputError(f"{name} has another prompt at index {row['index']} than {run.path}; give its --dataset")
    return records


def load_masks(path, run):
    """Bright-ending masks by (prompt index, seed) for LS.

    Raises:
        InputError: if they are of another model or way of sampling than the run, or do not have all its images.
    """
    with input_errors():
        store = MaskStore.read(path)
    for name in MODEL_SETTINGS:
        if store.settings.get(name) != run.settings.get(name):
            values = f"{name} {store.settings.get(name)!r}, {run.path} of {run.settings.get(name)!r}"
            raise InputError(f"masks in {path} are of {values}; give other --masks")
    missing = next((row["index"] for row in run.rows if not store.has(row["index"], row["seeds"])), None)
    if missing is not None:
        raise InputError(f"{path} has no mask of prompt {missing} at the seeds of {run.path}; give other --masks")
    return store.masks


def measure_run(run, rows, evaluators, records):
    """Every measure of every image of some rows of a run: one dict a prompt.

    Prompts without training images get CLIP alone.

    Returns:
        List of dicts with index, prompt, kind and, for each measure that the evaluators give, a list with
        one number an image (`diversity`: one number a prompt).
    """
    with tqdm(rows, desc=run.key, unit="prompt") as bar:  # closed on a fault, so that its line stands alone
        return [measure_row(run, row, evaluators, records[row["index"]]) for row in bar]


def measure_row(run, row, evaluators, record):
    images = run.images(row)
    references = [read_image(path) for path in record.reference_images]
    result = {"index": row["index"], "prompt": row["prompt"], "kind": row.get("kind") or "all"}
    if evaluators.clip is not None:
        result["clip"] = evaluators.clip(images, row["prompt"])
    if not references:
        return result
    result["pixel"] = similarity_to_references(images, record)
    if evaluators.descriptor is not None:
        descriptors = evaluators.descriptor(list(images))
        sscd = copy_similarity(descriptors, evaluators.descriptor(references)).tolist()
        result |= {"sscd": sscd, "copied": [float(v > COPY_SIMILARITY) for v in sscd]}
        result |= {"s": local_similarity(images, references, sscd), "diversity": [seed_diversity(descriptors)]}
        keys = [(row["index"], seed) for seed in row["seeds"]]
        if evaluators.masks:
            result["ls"] = local_similarity(images, references, sscd, np.stack([evaluators.masks[k] for k in keys]))
            result["local_copied"] = [float(v > LOCAL_COPY) for v in result["ls"]]
    if evaluators.perceptual is not None:
        result["lpips"] = evaluators.perceptual(images, references)
    return result


def summarize(run, measured, replicates=1000, seed=0):
    """Means with intervals of one run, for every kind of prompt and all together."""
    kinds = dict.fromkeys(m["kind"] for m in measured)
    groups = {kind: [m for m in measured if m["kind"] == kind] for kind in kinds if len(kinds) > 1}
    evals = [row["unet_evals_per_image"] + row.get("mask_evals_per_image", 0) for row in run.rows]
    head = {"run": run.key, "method": method_of(run), "strength": strength_of(run), "evals": float(np.mean(evals))}
    results = []
    for kind, some in {**groups, "all": measured}.items():
        row = head | {"kind": kind, "prompts": len(some), "images": len(some[0]["pixel"])}
        results.append(row | summarize_measures(some, MEASURES, replicates, seed))
    return results


def summarize_measures(measured, names, replicates, seed):
    """Mean and interval of each named measure that is there: per prompt first, then over prompts, as resampled."""
    found = {}
    for name in (n for n in names if n in measured[0]):
        means = [float(np.mean(m[name])) for m in measured]
        found[name] = mean_interval(means, np.arange(len(means)), replicates, seed)
    return found


def check_comparable(runs):
    """Refuse runs that are not of the same prompts and seeds of one model.

    Raises:
        InputError: naming two runs and the difference.
    """
    check_same_model(runs)
    first = [(row["index"], tuple(row["seeds"])) for row in runs[0].rows]
    for run in runs[1:]:
        other = [(row["index"], tuple(row["seeds"])) for row in run.rows]
        if len(other[0][1]) != len(first[0][1]):
            counts = f"{len(first[0][1])} and {len(other[0][1])}"
            raise InputError(f"{runs[0].path} and {run.path} have unequal numbers of images a prompt: {counts}")
        if other != first:
            raise InputError(f"{runs[0].path} and {run.path} are not of the same prompts and seeds; finish both runs")
    for run in runs:
        if not run.is_mitigation or any({"method", "unet_evals_per_image"} - row.keys() for row in run.rows):
            raise InputError(f"{run.path} is no result of inference_mem.py; give files called *_mitigation.jsonl")


def measure_runs(runs, evaluators, dataset=None):
    """Per-prompt dicts of `measure_run` by run key, for runs of the same prompts."""
    records = load_references(runs[0], dataset)
    return {run.key: measure_run(run, run.rows, evaluators, records) for run in runs}


def evaluate_mitigation(runs, evaluators, dataset=None, replicates=1000, seed=0):
    """Measure every run and summarise it.

    Returns:
        (result dicts of `summarize`, per-prompt dicts of `measure_run` by run key).
    """
    check_comparable(runs)
    runs = by_strength(runs)
    measured = measure_runs(runs, evaluators, dataset)
    results = [row for run in runs for row in summarize(run, measured[run.key], replicates, seed)]
    add_areas(results, measured, replicates, seed)
    return results, measured


def mitigation_tables(results, measured):
    """`Table`s for each kind of prompt: every run, then each against PE at equal utility."""
    tables = []
    for kind in dict.fromkeys(r["kind"] for r in results):
        some = [r for r in results if r["kind"] == kind]
        names = [n for n in MEASURES if n in some[0]]
        rows = [
            [r["method"], f"{r['strength']:g}", *(interval_text(r[n]) for n in names), f"{r['evals']:.1f}"]
            for r in some
        ]
        headers = ["method", "strength", *(MEASURES[n] for n in names), "UNet evaluations per image"]
        tables.append(Table(f"{kind} ({some[0]['prompts']} prompts, {some[0]['images']} images each)", headers, rows))
        tables += tradeoff_tables(results, measured, kind)
    return tables
