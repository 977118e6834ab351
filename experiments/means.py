"""Means over repetitions with their standard errors, as they are kept and as tables show them."""

from collections.abc import Iterable, Mapping

import numpy as np


def mean_and_error(values: Iterable[float]) -> dict[str, float]:
    """A mean and its standard error, of independent repetitions; NaN of one value is NaN of both."""
    numbers = np.fromiter(values, float)
    return {"mean": float(numbers.mean()), "error": float(numbers.std(ddof=1) / len(numbers) ** 0.5)}


def mean_text(found: Mapping[str, float]) -> str:
    """A mean with its standard error; a dash where it is not defined."""
    if found["mean"] is None or np.isnan(found["mean"]):  # as files and as results have it
        return "-"
    return f"{found['mean']:.3f} (± {found['error']:.3f})"
