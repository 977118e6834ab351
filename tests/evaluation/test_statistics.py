"""Means with intervals, by hand and by brute force."""

import numpy as np
import pytest
from scipy import stats

from memorization.evaluation.statistics import (
    UNBOUNDED,
    UNIT,
    BootstrapSettings,
    bootstrap_weights,
    interval_text,
    mean_interval,
    resampled_means,
    with_bootstrap_interval,
)


def test_the_bootstrap_draws_prompts_with_all_their_images():
    prompts = np.arange(150) // 3
    weights = bootstrap_weights(prompts, 50, seed=3)
    assert np.all(weights.sum(1) == 150)
    assert all(np.all(w.reshape(-1, 3) == w.reshape(-1, 3)[:, :1]) for w in weights)


def test_means_and_their_interval():
    values = np.arange(12.0)
    measure = mean_interval([*values, float("nan")], [*range(12), 12])
    assert measure["value"] == 5.5 and measure["low"] < 4 < 7 < measure["high"]
    assert mean_interval(values, np.zeros(12))["low"] == 5.5  # one prompt has no spread to resample
    assert np.isnan(mean_interval([float("nan")], [0])["value"])
    assert resampled_means(values.reshape(6, 2), np.array([[0, 0, 0, 0, 0, 2.0]])).tolist() == [[10, 11]]
    assert interval_text(measure).startswith("5.500 [") and interval_text({"value": float("nan")}) == "-"


def test_the_interval_of_a_mean_ends_where_its_values_do():
    values = [1.0, 1.0, 1.0, 1.0, 0.9, 0.6]
    free, bounded = (mean_interval(values, range(6), within=within) for within in (UNBOUNDED, UNIT))
    assert free["high"] > 1 == bounded["high"] and bounded["low"] == free["low"] > 0
    assert mean_interval([-v for v in values], range(6), within=(-1, 0))["low"] == -1


def test_the_interval_of_a_mean_is_at_least_students_and_reaches_to_the_skewed_side():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=24), stats.expon.ppf((np.arange(24) + 0.5) / 24)):
        low, high = stats.t.interval(0.95, 23, values.mean(), values.std(ddof=1) / 24**0.5)
        images = np.repeat(values, 4)  # four equal images a prompt say no more than one
        found = mean_interval(images, np.arange(96) // 4)
        assert found["low"] <= low + 1e-9 and found["high"] >= high - 1e-9
        assert found == pytest.approx(mean_interval(values, np.arange(24)))
    assert found["high"] - values.mean() > 1.2 * (values.mean() - found["low"])


def test_percentiles_are_expanded_to_students_t():
    """Of a mean of normal values they are Student's interval, and plain percentiles are 8 % narrower at 24."""
    values = np.random.default_rng(1).normal(size=24)
    weights = BootstrapSettings(20000).weights(np.arange(24))
    found = with_bootstrap_interval(values.mean(), resampled_means(values, weights), 24)
    low, high = stats.t.interval(0.95, 23, values.mean(), values.std(ddof=1) / 24**0.5)
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.03)
    assert np.isnan(with_bootstrap_interval(float("nan"), [1.0, 2.0], 24)["low"])
