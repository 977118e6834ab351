"""The scores of rows: what each key is called, at which T it is looked at, and what it costs alone.

Everything here follows from the detectors' records; a key of no known detector, as of a plug-in that is not loaded, is
called by its key. Scores are higher = memorized.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from memorization.detectors.base import DETECTORS, Detector, in_order_of_cost
from noise_norms import leading_mean

MAGNITUDE = "text_noise_norm"  # D, the yardstick
HORIZONS: tuple[int | None, ...] = (1, 10, None)  # T; None is all steps
LAST_STEP = "last"


def detector_of(key: str) -> Detector | None:
    """The detector that gives a key of a row; None where none that is known does."""
    return next((d for d in DETECTORS.values() if key in d.keys), None)


def label(key: str) -> str:
    """What tables call a score."""
    known = detector_of(key)
    return key if known is None else known.keys[key]


def key_of(name: str) -> str:
    """The row key of a score that a user names by its label or its key."""
    labels = {text: key for d in DETECTORS.values() for key, text in d.keys.items()}
    return labels.get(name, name)


def is_chosen(key: str) -> bool:
    """Whether a row key is a score that only `--scores` gives: one number per image, without steps."""
    known = detector_of(key)
    return known is not None and not known.always


def known_first(keys: Iterable[str]) -> list[str]:
    """Keys with those that every run gives first, D ahead, then other kinds of D, and the others as they come."""
    keys = list(keys)
    usual = [key for d in in_order_of_cost() if d.always for key in d.keys if key in keys]
    kin = [key for key in keys if key not in usual and key.startswith(MAGNITUDE)]
    return [*usual, *kin, *(key for key in keys if key not in usual and key not in kin)]


def score_cost(key: str, horizon: int | None, num_steps: int) -> int:
    """Evaluations per image that a score alone would take, with a gradient or tangent counted as two more.

    Args:
        key: of a row.
        horizon: first steps that are averaged; None for all.
        num_steps: of a whole generation.
    """
    known = detector_of(key)
    return 2 * num_steps if known is None else known.evaluations(key, horizon, num_steps)


def image_scores(row: Mapping, key: str, horizon: int | None, num_images: int | None = None) -> np.ndarray:
    """One score per image of a row, (images,): the mean over the first `horizon` steps where it has steps."""
    values = np.asarray(row[key][:num_images], float)
    return values if values.ndim == 1 else leading_mean(values, horizon)


def horizons_of(row: Mapping, key: str, horizons: Sequence[int | None]) -> list[int | None]:
    """The T that make sense for a score: None alone where it has no steps, none beyond its steps."""
    if not isinstance(row[key][0], list):
        return [None]
    return [t for t in horizons if t is None or t < len(row[key][0])]


def horizon_text(key: str, horizon: int | None) -> str:
    """T as tables have it: a dash where a score is not one of steps."""
    known = detector_of(key)
    if known is None or known.stepped:
        return str(horizon or "all")
    return LAST_STEP if known.always else "-"


def score_label(key: str, horizon: int | None) -> str:
    """Name of a score with its T, where it has one."""
    text = horizon_text(key, horizon)
    return label(key) if text in ("-", LAST_STEP) else f"{label(key)}, T={text}"
