"""ROC and precision-recall numbers against scikit-learn and hand-worked cases."""

import numpy as np
import pytest
from sklearn import metrics as sk

from memorization.evaluation.curves import (
    auc,
    average_precision,
    balanced_accuracy,
    best_iou,
    cumulative_curve,
    f1,
    rank_auc,
    tpr_at_fpr,
)
from memorization.evaluation.detection_metrics import DETECTION_METRICS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [True, False])
def test_every_metric_equals_scikit_learn(seed, ties):
    labels = np.r_[np.ones(60, bool), np.zeros(90, bool)]
    scores = np.random.default_rng(seed).normal(labels * 0.8, 1)
    scores = scores.round(1) if ties else scores
    curve = cumulative_curve(scores, labels)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    assert auc(curve) == pytest.approx(sk.roc_auc_score(labels, scores), abs=1e-12)
    for bound in (0.01, 0.03, 0.2):
        assert tpr_at_fpr(curve, bound) == pytest.approx(tpr[fpr <= bound + 1e-12].max(), abs=1e-12)
    assert average_precision(curve) == pytest.approx(sk.average_precision_score(labels, scores), abs=1e-12)
    above = [scores >= t for t in np.unique(scores)]
    best = [max(f(labels, p) for p in above) for f in (sk.f1_score, sk.jaccard_score, sk.balanced_accuracy_score)]
    found = [f1(curve.tpr, curve.fpr, 60, 90).max(), best_iou(curve), balanced_accuracy(curve.tpr, curve.fpr).max()]
    assert found == pytest.approx(best, abs=1e-12)
    measures = {name: m.measure(scores, labels, np.arange(150)) for name, m in DETECTION_METRICS.items()}
    values = [measures[name]["value"] for name in ("auc", "best_f1", "best_accuracy")]
    assert values == pytest.approx([auc(curve), best[0], best[2]], abs=1e-12)
    assert measures["tpr_at_3_fpr"]["value"] == tpr_at_fpr(curve, 0.03)


def test_ties_by_hand():
    assert rank_auc([2, 3], [1, 2]) == 0.875  # one tie in four pairs
    assert rank_auc([1], [1]) == 0.5
    assert rank_auc([1, 2, 2], [0, 2]) == pytest.approx((1 + 0 + 1 + 0.5 + 1 + 0.5) / 6)
    assert rank_auc([float("inf")], [1.0]) == 1 and rank_auc([float("inf")], [float("inf")]) == 0.5
    # The first memorized item ties with the one negative: no threshold has it alone.
    assert tpr_at_fpr(cumulative_curve([5, 5, 4], [True, False, True]), 0.5) == 0
    assert tpr_at_fpr(cumulative_curve([6, 5, 4], [True, False, True]), 0.5) == 0.5


def test_auc_of_nothing_or_of_a_broken_score_is_not_a_number():
    for positives, negatives in (([], [1]), ([1], []), ([float("nan")], [1, 2]), ([3], [float("nan")])):
        assert np.isnan(rank_auc(positives, negatives))
    with pytest.raises(ValueError, match="NaN"):
        cumulative_curve([1, float("nan")], [True, False])
