"""."""

import numpy as np

from memorization.detectors.registry import MOTION, SIGNALS, TILED
from noise_norms import leading_mean


def signal_of(key):
    """Name of the signal that a row key belongs to; None for D, LD and what needs no signal."""
    return next((name for name, s in SIGNALS.items() if key.startswith(s.prefix or name)), None)


def is_published(key):
    """Whether a row key is of a signal that only --scores gives: one number an image, without steps."""
    return signal_of(key) is not None or key in (TILED, MOTION)


def score_cost(key, horizon, num_steps):
    """Evaluations an image that a score alone would take, with a gradient or tangent counted as two more.

    Args:
        key: of a row.
        horizon: first steps that are averaged; None for all.
        num_steps: of a whole generation.
    """
    signal = SIGNALS.get(signal_of(key))
    if key == "attention_entropy_layer":  # of the first step, unlike the others of its signal
        return 2
    if signal is not None:
        return 2 * (signal.steps or num_steps) + signal.cost[0] + 2 * signal.cost[1]
    return 2 * (horizon or num_steps) if key == "text_noise_norm" else 2 * num_steps


HORIZONS = (1, 10, None)


SCORES = {
    "D": "text_noise_norm",
    "LD": "text_noise_norm_masked",
    "LD shuffled mask": "text_noise_norm_shuffled",
    "LD rms": "text_noise_norm_rms",
    "end-token attention": "end_token_attention",
}


NAMES = {key: name for name, key in SCORES.items()} | {"text_noise_norm_early_masked": "LD with noise_diff_map"}


def image_scores(row, key, horizon, num_images=None):
    """One score an image of a row, (images,): the mean over the first `horizon` steps where it has steps."""
    values = np.asarray(row[key][:num_images], float)
    return values if values.ndim == 1 else leading_mean(values, horizon)


def horizons_of(row, key, horizons):
    """The T that make sense for a score: None alone where it has no steps, none beyond its steps."""
    if not isinstance(row[key][0], list):
        return [None]
    return [t for t in horizons if t is None or t < len(row[key][0])]


def horizon_text(key, horizon):
    """T as tables have it: a dash where a score is not one of steps."""
    if key == "end_token_attention":
        return "last"
    return "-" if is_published(key) else str(horizon or "all")


def score_label(key, horizon):
    """Name of a score with its T, where it has one."""
    name, text = NAMES.get(key, key), horizon_text(key, horizon)
    return name if text in ("-", "last") else f"{name}, T={text}"
