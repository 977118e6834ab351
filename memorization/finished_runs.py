"""Finished runs read back for evaluation: rows, settings and images, checked before anything is computed."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from memorization.errors import InputError, input_errors
from memorization.files.masks import MaskStore
from memorization.files.whole import read_png
from memorization.rows import check_counts, is_number, is_whole, parse_row, whole_lines

MITIGATION_SUFFIX = "_mitigation"


MODEL_SETTINGS = ("model_id", "unet_id", "guidance_scale", "num_inference_steps", "image_length")


# Settings that evaluation looks into, and what each must be; strengths are None of other methods.
SETTINGS = {
    "dataset": lambda value: isinstance(value, str), "gen_seed": is_whole,
    **dict.fromkeys(
        ("rand_noise_lam", "repeat_num", "l_target_ss", "optim_target_loss"), lambda v: v is None or is_number(v)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One results file of detect_mem.py or inference_mem.py.

    Attributes:
        path: the .jsonl file.
        rows: one dict a prompt, in the order of their index.
        settings, versions: what the .config.json beside it says.
    """

    path: Path
    rows: tuple
    settings: dict
    versions: dict

    @property
    def key(self):
        """Name of the run's files, its version or method included."""
        return self.path.stem.removesuffix(MITIGATION_SUFFIX)

    @property
    def is_mitigation(self):
        return self.path.stem.endswith(MITIGATION_SUFFIX)

    @property
    def folder(self):
        """The --output_dir of the run."""
        return self.path.resolve().parent.parent

    @property
    def dataset(self):
        """Short name of the prompt set."""
        return Path(str(self.settings.get("dataset"))).stem

    def image(self, row, k):
        """Image k of a row, uint8 (height, width, 3)."""
        return read_png(self.folder / "images_data" / self.key / f"{row['index']}_{row['seeds'][k]}.png")

    def has_images(self):
        """Whether the first image of every row is there as PNG."""
        folder = self.folder / "images_data" / self.key
        return all((folder / f"{row['index']}_{row['seeds'][0]}.png").exists() for row in self.rows)

    def images(self, row):
        """All images of a row, uint8 (images, height, width, 3).

        Raises:
            InputError: if a PNG is missing or damaged.
        """
        return np.stack([self.image(row, k) for k in range(len(row["seeds"]))])


def read_run(path):
    """Read and check a results file.

    Raises:
        InputError: one line that names file, row and fault: no such file, no settings beside it, rows of
            another version of the scripts, scores that are no numbers, unequal numbers of images.
    """
    path = Path(path)
    config = path.with_suffix(".config.json")
    if not path.is_file():
        raise InputError(f"result file {path} does not exist; give a .jsonl of det_outputs/")
    if not config.is_file():
        raise InputError(f"{path} has no {config.name} beside it: it is no result file, or of another version")
    try:
        record = json.loads(config.read_text(encoding="utf-8"))
        settings, versions = record["settings"], record["versions"]
        if not isinstance(settings, dict) or not isinstance(versions, dict):
            raise TypeError("settings and versions have names")
        if not all(is_right(settings.get(name)) for name, is_right in SETTINGS.items()):
            raise TypeError("a setting of another type")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{config} does not say how its rows were made; run the script again") from error
    rows = [parse_row(path, number, line) for number, line in enumerate(whole_lines(path), 1)]
    if not rows:
        raise InputError(f"{path} has no finished rows")
    check_counts(path, rows)
    return Run(path, tuple(sorted(rows, key=lambda row: row["index"])), settings, versions)


def check_same_model(runs, what="compared"):
    """Refuse runs that differ in what decides every number: model, steps, guidance, size.

    Raises:
        InputError: naming both runs and the setting.
    """
    first = runs[0]
    for run in runs[1:]:
        for name in MODEL_SETTINGS:
            if run.settings.get(name) != first.settings.get(name):
                values = f"{first.settings.get(name)!r} and {run.settings.get(name)!r}"
                raise InputError(f"{first.path} and {run.path} cannot be {what}: {name} is {values}")


STRENGTHS = {"gni": ("rand_noise_lam",), **dict.fromkeys(("rna", "rt", "cwr"), ("repeat_num",))}


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


PLAIN = "none"


def stored_masks(run):
    path = run.folder / "attn_data" / f"{run.key}_attention_scores.npz"
    if not path.is_file():
        return {}
    try:
        return MaskStore.read(path).masks
    except ValueError:  # the original's layout, which does not say whose masks they are
        return {}


def masks_for(runs, given):
    """Masks out of the given file, which must fit, or out of the run's own where that has them."""
    run = next((run for run in runs if run.is_mitigation), runs[0])
    path = given or run.folder / "attn_data" / "mit_attn_scores.npz"
    if given is None and not path.exists():
        return {}
    try:
        return load_masks(path, run)
    except InputError:
        if given is not None:
            raise
        return {}
