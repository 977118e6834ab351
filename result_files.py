"""Finished runs read back for evaluation: rows, settings and images, checked before anything is computed."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from row_files import are_seeds, find_fault, is_number, is_whole
from run_utils import InputError, read_png

MITIGATION_SUFFIX = "_mitigation"
MOTION_NORMS = ("latent_norm", "update_norm", "x0_norm")
NOT_SCORES = {"index", "seeds", "uncond_noise_norm", *MOTION_NORMS}  # lists with an entry an image, but no score
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


def whole_lines(path):
    """Lines of a file; a last one without its end, of a run that was cut off, is left out."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: byte {error.start}") from error
    return text.split("\n")[:-1]


def parse_row(path, number, line):
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}, line {number}: not JSON ({error})") from error
    missing = [k for k in ("index", "prompt", "seeds") if not isinstance(row, dict) or k not in row]
    if missing:
        raise InputError(
            f"{path}, line {number}: a row of another version, without {', '.join(missing)}; run the script again"
        )
    if not are_seeds(row["seeds"], row) or not is_whole(row["index"]):
        raise InputError(f"{path}, line {number}: index and seeds are not whole numbers; run the script again")
    for name, values in row.items():
        if isinstance(values, list):
            check_numbers(path, number, name, values, len(row["seeds"]))
    fault = find_fault(row, ("prompt",))
    if fault is not None:
        raise InputError(f"{path}, line {number}: {fault} is not what a run writes; run the script again")
    return row


def check_numbers(path, number, name, values, num_images):
    """Refuse lists of numbers that hold NaN or have not one entry an image; others are left alone."""
    try:
        array = np.asarray(values, float)
    except (ValueError, TypeError, OverflowError) as error:
        if name not in NOT_SCORES and all(isinstance(v, list | int | float) for v in values):
            raise InputError(f"{path}, line {number}: {name} has steps or images missing") from error
        return
    if not np.isfinite(array).all():
        raise InputError(f"{path}, line {number}: {name} holds NaN or infinity; the run's precision may be too low")
    if len(array) != num_images:
        raise InputError(f"{path}, line {number}: {name} is of {len(array)} images, the row's seeds are {num_images}")


def check_counts(path, rows):
    counts = {len(row["seeds"]): row["index"] for row in rows}
    if len(counts) > 1:
        told = " and ".join(f"{n} (prompt {index})" for n, index in sorted(counts.items()))
        raise InputError(f"{path}: unequal numbers of images: {told}; make the run again with --overwrite")
    for name in score_names(rows[0]):
        stepped = isinstance(rows[0][name][0], list)
        other = next((r for r in rows if not is_score(r.get(name)) or isinstance(r[name][0], list) != stepped), None)
        if other is not None:
            raise InputError(f"{path}: prompt {other['index']} lacks {name}; make the run again with --overwrite")


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


def score_names(row):
    """Keys of a row that are scores: a list with a number an image, or a list of steps an image."""
    return [k for k, v in row.items() if k not in NOT_SCORES and is_score(v)]


def is_score(values):
    if not isinstance(values, list) or not values:
        return False
    numbers = [v for image in values for v in (image if isinstance(image, list) else [image])]
    return bool(numbers) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
