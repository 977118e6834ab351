"""Two worlds beside each other, on made-up numbers."""

import pytest

from experiments.worlds import agreement, worlds_table


def interval(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


ABOVE, BELOW, OPEN = interval(0.6, 0.9), interval(0.1, 0.4), interval(0.3, 0.7)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (ABOVE, ABOVE, "both above"),
        (BELOW, BELOW, "both below"),
        (ABOVE, BELOW, "they disagree"),
        (ABOVE, OPEN, "drawn alone: above"),
        (OPEN, BELOW, "pictures alone: below"),
        (OPEN, OPEN, "neither says"),
        (interval(0.5, 0.9), interval(0.1, 0.5), "neither says"),  # one half itself is held
    ],
)
def test_worlds_agree_where_both_intervals_lie_on_one_side_of_one_half(one, other, said):
    assert agreement(one, other) == said


def world(copied, auc):
    copies = [{"ruler": "pixels", "kind": "verbatim", "dose": d, "copied": BELOW} for d in (1, 1024)]
    copies += [{"ruler": "sscd", "kind": "verbatim", "dose": d, "copied": m} for d, m in ((1, BELOW), (1024, copied))]
    scores = [
        {"kind": "verbatim", "dose": d, "negative_set": "planted_near_miss", "score": s, "auc": m}
        for d, s, m in ((1024, "D, T=1", auc), (1024, "LD shuffled mask, T=1", ABOVE), (64, "D, T=1", BELOW))
    ]
    return {"copies": copies, "scores": scores, "maps": [], "mitigations": []}


def test_findings_of_the_last_ruler_and_the_full_dose_stand_beside_each_other():
    lines = worlds_table(world(ABOVE, ABOVE), world(ABOVE, BELOW)).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == [
        "share of copies, dose 1",
        "share of copies, dose 1024",
        "AUC of D, T=1, near misses",
    ]
    assert (
        lines[-1]
        == "Of 3 findings 2 are the same in both worlds, 1 are opposite, 0 show in one alone and 0 in neither."
    )
