"""Statistics against scikit-learn, hand-worked cases and brute force."""

import numpy as np
import pytest
from sklearn import metrics as sk

from memorization.evaluation.statistics import (
    auc,
    average_precision,
    best_accuracy,
    best_f1,
    best_iou,
    bootstrap_weights,
    cumulative_curve,
    detection_metrics,
    interval,
    interval_text,
    mean_interval,
    rank_auc,
    resampled_means,
    tpr_at_fpr,
    weight_chunks,
)


def example(seed, ties=True):
    """Scores with many ties, labels and whole-number weights."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.ones(60, bool), np.zeros(90, bool)]
    scores = rng.normal(labels * 0.8, 1)
    return (scores.round(1) if ties else scores), labels, rng.integers(0, 4, 150).astype(float)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [True, False])
def test_every_metric_equals_scikit_learn_with_weights(seed, ties):
    scores, labels, weights = example(seed, ties)
    curve = cumulative_curve(scores, labels, weights)
    fpr, tpr, thresholds = sk.roc_curve(labels, scores, sample_weight=weights, drop_intermediate=False)
    assert auc(curve)[0] == pytest.approx(sk.roc_auc_score(labels, scores, sample_weight=weights), abs=1e-12)
    for bound in (0.01, 0.03, 0.2):
        assert tpr_at_fpr(curve, bound)[0] == pytest.approx(tpr[fpr <= bound + 1e-12].max(), abs=1e-12)
    precision = sk.average_precision_score(labels, scores, sample_weight=weights)
    assert average_precision(curve)[0] == pytest.approx(precision, abs=1e-12)
    above = [scores >= t for t in np.unique(scores)]
    f1, iou = ([f(labels, p, sample_weight=weights) for p in above] for f in (sk.f1_score, sk.jaccard_score))
    assert best_f1(curve)[0] == pytest.approx(max(f1), abs=1e-12)
    assert best_iou(curve)[0] == pytest.approx(max(iou), abs=1e-12)
    assert best_accuracy(curve)[0] == pytest.approx(max((1 + tpr - fpr) / 2), abs=1e-12)


def test_ties_by_hand():
    assert rank_auc([2, 3], [1, 2]) == 0.875  # one tie in four pairs
    assert rank_auc([1], [1]) == 0.5
    assert rank_auc([1, 2, 2], [0, 2]) == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 0.5) / 6)
    assert rank_auc([float("inf")], [1.0]) == 1 and rank_auc([float("inf")], [float("inf")]) == 0.5
    # The first memorized item ties with the one negative: no threshold has it alone.
    assert tpr_at_fpr(cumulative_curve([5, 5, 4], [True, False, True]), 0.5)[0] == 0
    assert tpr_at_fpr(cumulative_curve([6, 5, 4], [True, False, True]), 0.5)[0] == 0.5


def test_auc_of_nothing_or_of_a_broken_score_is_not_a_number():
    for positives, negatives in (([], [1]), ([1], []), ([float("nan")], [1, 2]), ([3], [float("nan")])):
        assert np.isnan(rank_auc(positives, negatives))
    with pytest.raises(ValueError, match="NaN"):
        cumulative_curve([1, float("nan")], [True, False])


def test_the_bootstrap_equals_resampling_by_brute_force():
    """Weights of whole prompts give what repeating their images gives, and classes keep their size."""
    scores, labels, _ = example(0)
    prompts = np.arange(150) // 3
    weights = bootstrap_weights(prompts, 50, seed=3, strata=labels)
    assert np.all(weights[:, labels].sum(1) == 60) and np.all(weights[:, ~labels].sum(1) == 90)
    assert all(np.all(w.reshape(-1, 3) == w.reshape(-1, 3)[:, :1]) for w in weights)
    fast = detection_metrics(scores, labels, weights)
    for k in (0, 17, 49):
        items = np.repeat(np.arange(150), weights[k].astype(int))
        assert fast["auc"][k] == pytest.approx(sk.roc_auc_score(labels[items], scores[items]), abs=1e-12)
        slow = detection_metrics(scores[items], labels[items])
        assert all(fast[name][k] == pytest.approx(slow[name][0], abs=1e-12) for name in fast)


def test_the_interval_has_the_spread_of_independent_brute_force():
    rng = np.random.default_rng(0)
    scores, labels, _ = example(1)
    prompts = np.arange(150) // 3
    low, high = interval(detection_metrics(scores, labels, bootstrap_weights(prompts, 2000, 0, labels))["auc"])
    values = []
    for _ in range(2000):
        drawn = [rng.choice(np.unique(prompts[labels == side]), (labels == side).sum() // 3) for side in (True, False)]
        items = np.concatenate([np.flatnonzero(prompts == p) for p in np.concatenate(drawn)])
        values.append(rank_auc(scores[items][labels[items]], scores[items][~labels[items]]))
    assert np.quantile(values, [0.025, 0.975]) == pytest.approx([low, high], abs=0.01)


def test_chunks_change_nothing(monkeypatch):
    scores, labels, _ = example(2)
    weights = bootstrap_weights(np.arange(150), 20, 0, labels)
    whole = detection_metrics(scores, labels, weights)
    monkeypatch.setattr("memorization.evaluation.statistics.CHUNK", 450)
    assert len(weight_chunks(weights, 150)) == 7
    parts = detection_metrics(scores, labels, weights)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_means_and_their_interval():
    values = np.arange(12.0)
    measure = mean_interval([*values, float("nan")], [*range(12), 12])
    assert measure["value"] == 5.5 and measure["low"] < 4 < 7 < measure["high"]
    assert mean_interval(values, np.zeros(12))["low"] == 5.5  # one prompt has no spread to resample
    assert np.isnan(mean_interval([float("nan")], [0])["value"])
    assert resampled_means(values.reshape(6, 2), np.array([[0, 0, 0, 0, 0, 2.0]])).tolist() == [[10, 11]]
    assert interval_text(measure).startswith("5.500 [") and interval_text({"value": float("nan")}) == "-"
