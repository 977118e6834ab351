"""."""

import json
import sys

import numpy as np

from memorization.errors import InputError


def is_number(value):
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # false for NaN


def is_whole(value):
    """Whether a value is a whole number from 0 on that fits into 64 bits, as indices and seeds do."""
    return type(value) is int and 0 <= value < 2**63


def are_scores(values, row):
    """A number an image, or as many steps for each."""
    if not isinstance(values, list) or len(values) != len(row["seeds"]):
        return False
    if all(map(is_number, values)):
        return True
    steps = {len(v) for v in values if isinstance(v, list)}
    return len(steps) == 1 and 0 not in steps and all(isinstance(v, list) and all(map(is_number, v)) for v in values)


def are_flags(values, row):
    return isinstance(values, list) and len(values) == len(row["seeds"]) and all(type(v) is bool for v in values)


def are_seeds(values, row):
    return isinstance(values, list) and bool(values) and all(map(is_whole, values))


# Columns that the scripts read back, in the order in which they are looked at, and what each must be.
COLUMNS = {
    "seeds": are_seeds,
    "prompt": lambda value, row: isinstance(value, str),
    "kind": lambda value, row: isinstance(value, str | None),
    "is_memorized": lambda value, row: isinstance(value, bool | None),
    "triggered": are_flags,
    "method": lambda value, row: isinstance(value, str),
    "unet_evals_per_image": lambda value, row: is_number(value),
    "mask_evals_per_image": lambda value, row: is_number(value),
    **dict.fromkeys(
        ("text_noise_norm", "text_noise_norm_masked", "text_noise_norm_shuffled", "text_noise_norm_rms",
         "end_token_attention", "magnitude_before", "magnitude_after", "pixel_similarity"), are_scores,
    ),
}  # fmt: skip


def find_fault(row, needed):
    """Name of the first column that is needed and missing, or is of another type; None where all are well."""
    for name, is_right in COLUMNS.items():
        if not is_right(row[name], row) if name in row else name in needed:
            return name
    return next((name for name in needed if name not in row), None)


MOTION_NORMS = ("latent_norm", "update_norm", "x0_norm")


NOT_SCORES = {"index", "seeds", "uncond_noise_norm", *MOTION_NORMS}  # lists with an entry an image, but no score


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


def score_names(row):
    """Keys of a row that are scores: a list with a number an image, or a list of steps an image."""
    return [k for k, v in row.items() if k not in NOT_SCORES and is_score(v)]


def is_score(values):
    if not isinstance(values, list) or not values:
        return False
    numbers = [v for image in values for v in (image if isinstance(image, list) else [image])]
    return bool(numbers) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)
