"""The schema of a row: what its columns must be, in rows that a run goes on with and in those that are read back."""

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from memorization.errors import InputError
from memorization.seeds import is_whole

AGAIN = "run the script again"
MOTION_NORMS = ("latent_norm", "update_norm", "x0_norm")
OF_PICTURES = {"pixel_similarity"}  # of prompts that have training images alone
NOT_SCORES = {"index", "seeds", "uncond_noise_norm", *MOTION_NORMS}  # lists with an entry per image, but no score


def is_number(value: object) -> bool:
    """Whether a value is a finite number and not a truth value."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]  # false for NaN


def are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(map(is_number, values))


def are_seeds(values: object) -> bool:
    return isinstance(values, list) and bool(values) and all(map(is_whole, values))


def are_scores(values: object, num_images: int) -> bool:
    """Whether these are finite scores, one per image or equally many steps of each."""
    if not isinstance(values, list) or len(values) != num_images:
        return False
    if are_numbers(values):
        return True
    return all(map(are_numbers, values)) and len({len(steps) for steps in values}) == 1 and bool(values[0])


def are_flags(values: object, num_images: int) -> bool:
    return isinstance(values, list) and len(values) == num_images and all(type(v) is bool for v in values)


def is_text(value: object) -> bool:
    return isinstance(value, str)


def is_text_or_none(value: object) -> bool:
    return isinstance(value, str | None)


def is_flag_or_none(value: object) -> bool:
    return isinstance(value, bool | None)


# Columns that the scripts read back, in the order in which they are looked at, and what each must be.
SINGLE_COLUMNS: Mapping[str, Callable[[object], bool]] = {
    "seeds": are_seeds,
    "prompt": is_text,
    "kind": is_text_or_none,
    "is_memorized": is_flag_or_none,
    "method": is_text,
    "unet_evals_per_image": is_number,
    "mask_evals_per_image": is_number,
}
# Those with an entry per image: looked at when the seeds are known to be right.
IMAGE_COLUMNS: Mapping[str, Callable[[object, int], bool]] = {
    "triggered": are_flags,
    "text_noise_norm": are_scores,
    "text_noise_norm_masked": are_scores,
    "text_noise_norm_shuffled": are_scores,
    "text_noise_norm_rms": are_scores,
    "end_token_attention": are_scores,
    "magnitude_before": are_scores,
    "magnitude_after": are_scores,
    "pixel_similarity": are_scores,
}


def find_fault(row: Mapping, needed: Sequence[str]) -> str | None:
    """Name of the first column that is needed and missing, or is of another type; None where all are well."""
    for name, is_right in SINGLE_COLUMNS.items():
        if not is_right(row[name]) if name in row else name in needed:
            return name
    for name, are_right in IMAGE_COLUMNS.items():
        if not are_right(row[name], len(row["seeds"])) if name in row else name in needed:
            return name
    return next((name for name in needed if name not in row), None)


def not_finite(row: Mapping) -> str | None:
    """Name of the first column that holds NaN or infinity, which JSON does not have; None where all are numbers."""
    return next((name for name, value in row.items() if holds_no_number(value)), None)


def holds_no_number(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(holds_no_number, value.values()))
    if isinstance(value, list | tuple):
        return any(map(holds_no_number, value))
    return isinstance(value, float) and not math.isfinite(value)


def check_row(path: object, number: int, row: object) -> dict:
    """A row that was read back from line `number` of a file, when it is one.

    Raises:
        InputError: if a column that every row has is missing, or one is not what a run writes.
    """
    where = f"{path}, line {number}"
    missing = [k for k in ("index", "prompt", "seeds") if not isinstance(row, dict) or k not in row]
    if missing or not isinstance(row, dict):
        raise InputError(f"{where}: a row of another version, without {', '.join(missing)}; {AGAIN}")
    if not are_seeds(row["seeds"]) or not is_whole(row["index"]):
        raise InputError(f"{where}: index and seeds are not whole numbers; {AGAIN}")
    for name, values in row.items():
        if isinstance(values, list):
            check_numbers(where, name, values, len(row["seeds"]))
    fault = find_fault(row, ("prompt",))
    if fault is not None:
        raise InputError(f"{where}: {fault} is not what a run writes; {AGAIN}")
    return row


def check_numbers(where: str, name: str, values: list, num_images: int) -> None:
    """Refuse lists of numbers that hold NaN or have not one entry per image; others are left alone."""
    try:
        array = np.asarray(values, float)
    except (ValueError, TypeError, OverflowError) as error:
        if name not in NOT_SCORES and all(isinstance(v, list | int | float) for v in values):
            raise InputError(f"{where}: {name} has steps or images missing") from error
        return
    if not np.isfinite(array).all():
        raise InputError(f"{where}: {name} holds NaN or infinity; the run's precision may be too low")
    if len(array) != num_images:
        raise InputError(f"{where}: {name} is of {len(array)} images, the row's seeds are {num_images}")


def check_counts(path: object, rows: Sequence[Mapping]) -> None:
    """
    Raises:
        InputError: if the rows differ in the number of images or in the scores that they have.
    """
    counts = {len(row["seeds"]): row["index"] for row in rows}
    if len(counts) > 1:
        told = " and ".join(f"{n} (prompt {index})" for n, index in sorted(counts.items()))
        raise InputError(f"{path}: unequal numbers of images: {told}; make the run again with --overwrite")
    for name in [n for n in score_names(rows[0]) if n not in OF_PICTURES]:
        stepped = isinstance(rows[0][name][0], list)
        other = next((r for r in rows if not is_score(r.get(name)) or isinstance(r[name][0], list) != stepped), None)
        if other is not None:
            raise InputError(f"{path}: prompt {other['index']} lacks {name}; make the run again with --overwrite")


def score_names(row: Mapping) -> list[str]:
    """Keys of a row that are scores: a list with a number per image, or with a list of steps per image."""
    return [k for k, v in row.items() if k not in NOT_SCORES and is_score(v)]


def is_score(values: object) -> bool:
    if not isinstance(values, list) or not values:
        return False
    numbers = list(flattened(values))
    return bool(numbers) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers)


def flattened(values: Iterable) -> Iterable:
    """The entries of a list, and of the lists in it."""
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def told_of_faulty(faulty: Mapping[int, str]) -> str:
    """What the end of a run says of prompts without a row: by index, what of them is NaN or infinite."""
    index, column = next(iter(faulty.items()))
    count = len(faulty)
    return (
        f"{count} {'prompt has' if count == 1 else 'prompts have'} no row, as {column} of prompt {index} is NaN or "
        "infinite; use --dtype float32, or smaller values of --guidance_scale and the strengths, or leave the prompt "
        "out; the others are finished and kept"
    )
