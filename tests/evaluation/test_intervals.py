"""Intervals at and near the boundary: what stands beside 0 of 24 and beside an AUC of 1."""

import numpy as np
import pytest
from scipy.stats import binomtest

from memorization.evaluation.detection_metrics import (
    DETECTION_METRICS,
    auc_difference_measure,
    auc_measure,
    tpr_measure,
)
from memorization.evaluation.shares import effective_size, share_measure
from memorization.evaluation.statistics import interval_text


def bounds(measure):
    return measure["low"], measure["high"]


@pytest.mark.parametrize("found", [0, 1, 12, 23, 24])
def test_a_share_of_single_images_has_clopper_and_pearsons_interval(found):
    values = np.arange(24) < found
    exact = binomtest(found, 24).proportion_ci(0.95, "exact")
    measure = share_measure(values, np.arange(24))
    assert bounds(measure) == pytest.approx((exact.low, exact.high))
    assert interval_text(measure).endswith(f", {found} of 24")


def test_nothing_of_24_prompts_is_0_to_0_142_however_many_images_they_have():
    for images in (1, 4, 16):
        prompts = np.repeat(np.arange(24), images)
        assert bounds(share_measure(np.zeros(len(prompts)), prompts)) == pytest.approx((0, 0.1425), abs=1e-4)
        assert bounds(share_measure(np.ones(len(prompts)), prompts)) == pytest.approx((0.8575, 1), abs=1e-4)


def test_images_of_a_prompt_count_for_what_they_are_worth():
    rng, prompts = np.random.default_rng(0), np.repeat(np.arange(48), 4)
    alike = np.repeat(rng.random(48) < 0.5, 4)
    apart = rng.random(192) < 0.5
    assert effective_size(alike, prompts) == pytest.approx(48, rel=0.05)
    assert 120 < effective_size(apart, prompts) <= 192
    uneven = np.r_[np.zeros(20, int), np.arange(1, 5)]  # twenty images of one prompt are not twenty trials
    assert share_measure(np.zeros(24), uneven)["high"] > 0.8
    assert share_measure([0, 1, float("nan")], [0, 1, 2]) == share_measure([0, 1], [0, 1])


@pytest.mark.parametrize("count", [2, 24, 100])
def test_a_perfect_auc_still_has_a_width(count):
    """Solved by hand: 1 - a = t sqrt(V(a)), V being Hanley and McNeil's variance."""
    scores, labels = np.r_[np.ones(count) + np.arange(count), -np.arange(count)], np.arange(2 * count) < count
    low, high = bounds(auc_measure(scores, labels, np.arange(2 * count)))
    assert high == 1
    t = {2: 12.706, 24: 2.0687, 100: 1.9842}[count]
    variance = low * (1 - low) * (1 + (count - 1) * ((1 - low) / (2 - low) + low / (1 + low))) / count**2
    assert 1 - low == pytest.approx(t * variance**0.5, rel=1e-3) or (count == 2 and low < 0.1)
    if count == 24:
        assert low == pytest.approx(0.906, abs=0.002)
    assert bounds(auc_measure(-scores, labels, np.arange(2 * count))) == pytest.approx((0, 1 - low), abs=1e-6)


def test_auc_of_the_same_images_again_is_no_more_certain():
    rng = np.random.default_rng(2)
    labels = np.arange(96) < 48
    scores = rng.normal(labels * 1.0)
    once = auc_measure(scores, labels, np.arange(96))
    again = auc_measure(np.repeat(scores, 4), np.repeat(labels, 4), np.repeat(np.arange(96), 4))
    assert again == pytest.approx(once)


def test_differences_have_a_width_where_both_are_perfect_and_none_where_the_order_is_the_same():
    labels, groups = np.arange(48) < 24, np.arange(48)
    one = np.r_[np.arange(24) + 1.0, -np.arange(24)]
    other = np.r_[np.arange(24)[::-1] + 1.0, -np.arange(24)]
    found = auc_difference_measure(one, other, labels, groups)
    assert found["value"] == 0 and found["low"] == pytest.approx(-0.094, abs=0.002) and found["high"] == -found["low"]
    assert bounds(auc_difference_measure(one, 3 * one + 1, labels, groups)) == (0, 0)


def test_pairs_that_go_together_differ_by_less_than_their_own_intervals():
    rng, labels, groups = np.random.default_rng(4), np.arange(200) < 100, np.arange(200)
    one = rng.normal(labels * 1.0)
    other = one + rng.normal(0, 0.1, 200)
    found, alone = auc_difference_measure(one, other, labels, groups), auc_measure(one, labels, groups)
    assert found["high"] - found["low"] < 0.5 * (alone["high"] - alone["low"])


def test_few_negatives_cannot_show_a_tpr_at_1_percent():
    labels, scores = np.arange(449) < 12, np.r_[np.full(12, 9.0), np.linspace(0, 1, 437)]
    groups = np.arange(449)
    for negatives, shown in ((24, False), (100, False), (436, False), (437, True)):
        kept = np.arange(449) < 12 + negatives
        found = tpr_measure(scores[kept], labels[kept], groups[kept], 0.01)
        assert found["value"] == found["high"] == 1 and (found["low"] > 0.5) == shown


def test_the_best_of_many_thresholds_is_not_above_chance_by_luck():
    rng = np.random.default_rng(5)
    labels = np.arange(48) < 24
    found = [DETECTION_METRICS["best_accuracy"].measure(rng.normal(size=48), labels, np.arange(48)) for _ in range(50)]
    assert np.mean([f["value"] for f in found]) > 0.57 and np.mean([f["low"] <= 0.5 for f in found]) >= 0.94
