"""Mitigations at equal utility and over all strengths, by hand."""

import numpy as np
import pytest

from memorization.evaluation.statistics import BootstrapSettings
from memorization.evaluation.tradeoff import (
    add_areas,
    against_reference,
    area_under,
    privacy_at,
    shared_range,
    spread,
    tradeoff_areas,
    tradeoff_tables,
)

VALUE = {"value": 0.0, "low": 0.0, "high": 0.0}


def made_up(points, prompts=3):
    """Results and measures of runs by name: (method, SSCD, CLIP), the same for every prompt."""
    measured = {r: [{"kind": "k", "sscd": [s], "clip": [c]}] * prompts for r, (_, s, c) in points.items()}
    rows = [
        {"kind": "all", "run": r, "method": m, "strength": 1, "sscd": VALUE, "clip": VALUE}
        for r, (m, _, _) in points.items()
    ]
    return rows, measured


def test_a_run_against_pe_at_its_own_utility_by_hand():
    """PE falls from (1, .9) to (.2, .5) in SSCD and CLIP: at the others' CLIP of .7 and .4 it has .6, and nothing."""
    curve = np.array([[[1.0, 0.9], [0.2, 0.5]]])
    assert privacy_at(curve, np.array([0.7]))[0] == pytest.approx(0.6)
    beyond = [privacy_at(curve, np.array([u]))[0] for u in (0.9, 0.95, 0.5, 0.4)]
    assert beyond == pytest.approx([1.0, 1.1, 0.2, 0.0])  # as steeply as within
    assert privacy_at(np.array([[[1.0, 0.5], [0.6, 0.9], [0.2, 0.5]]]), np.array([0.7]))[0] == pytest.approx(0.4)
    points = {"plain": ("none", 1, 0.9), "x": ("pe", 0.2, 0.5), "y": ("prss", 0.1, 0.7), "z": ("prss", 0.0, 0.4)}
    rows, measured = made_up(points)
    reference, compared = against_reference(rows, measured, "all")
    assert reference == "pe" and list(compared) == ["y", "z"]
    expected, difference = compared["y"]
    assert expected["value"] == pytest.approx(0.6) and difference["value"] == pytest.approx(-0.5)
    assert difference["low"] == pytest.approx(-0.5)  # three equal prompts have no spread
    assert np.isnan(compared["z"][1]["value"])
    add_areas(rows, measured)
    table, areas = tradeoff_tables(rows, measured, "all")
    assert [row[-1] for row in table.rows] == ["-0.500 [-0.500, -0.500]", "-"]
    assert [row[0] for row in areas.rows] == ["pe", "prss"]
    assert against_reference(rows[:2], measured, "all")[1] == {}


@pytest.mark.parametrize("seed", range(4))
def test_two_equal_methods_differ_by_0_with_an_interval_around_it(seed):
    """Also at the end of PE's curve, where half of the resamples do not reach the other's CLIP: none is left out."""
    rng, measured, rows = np.random.default_rng(seed), {}, []
    copied = rng.random(24) < 0.5
    for run, (method, sscd, clip) in {
        "p": ("none", 0.9, 0.4),
        "a1": ("pe", 0.5, 0.35),
        "a2": ("pe", 0.2, 0.3),
        "b1": ("other", 0.5, 0.35),
        "b2": ("other", 0.2, 0.3),
    }.items():
        noise = np.random.default_rng(["p", "1", "2"].index(run[-1])).normal(0, 0.03, (24, 2))  # equal in a and b
        values = np.c_[sscd * copied, clip - 0.05 * copied] + noise
        measured[run] = [{"kind": "k", "sscd": [s], "clip": [c]} for s, c in values]
        rows.append({"kind": "all", "run": run, "method": method, "strength": 1})
    compared = against_reference(rows, measured, "all", BootstrapSettings(300, seed))[1]
    for _, difference in compared.values():
        assert difference["value"] == pytest.approx(0, abs=1e-9)
        assert difference["low"] <= 1e-9 and difference["high"] >= -1e-9
        assert max(abs(difference["low"]), difference["high"]) < 0.02
    areas = tradeoff_areas(rows, measured, "all", BootstrapSettings(300, seed))
    assert areas["other"]["area_difference"] == {"value": 0, "low": 0, "high": 0}


def test_area_under_the_curve_by_hand():
    """Over CLIP .6 to 1 a line from SSCD .9 to .1 has a mean of .5; what is below 0 counts as 0."""
    line = np.array([[[0.9, 1.0], [0.1, 0.6]]])
    assert area_under(line, (0.6, 1.0)) == pytest.approx([0.5])
    assert area_under(line, (0.8, 1.0)) == pytest.approx([0.7])
    assert area_under(np.array([[[0.8, 1.0], [-3.0, 0.6]]]), (0.6, 1.0)) == pytest.approx([0.4])
    assert shared_range([line, np.array([[[0.9, 1.0], [0.0, 0.2]]])]) == (0.6, 1.0)
    assert shared_range([line, np.array([[[0.5, 0.6], [0.0, 0.2]]])]) is None
    assert spread(["a", "b", "c", "d", "e"], 3) == ["a", "c", "e"] and spread(["a", "b"], 1) == ["b"]


def test_areas_are_over_the_utilities_that_all_methods_span_with_equally_many_strengths():
    points = {
        "plain": ("none", 0.9, 1.0),
        "x": ("pe", 0.5, 0.8),
        "far": ("far", 0.0, 0.2),  # 0.675 at 0.8: how far it goes on does not count
        "w1": ("many", 0.1, 0.9),  # a second strength that the others do not have
        "w2": ("many", 0.3, 0.7),
    }
    areas = tradeoff_areas(*made_up(points), "all")
    expected = {"pe": (0.9 + 0.5) / 2, "far": (0.9 + 0.675) / 2, "many": (0.9 + 0.5) / 2}
    assert {m: a["area"]["value"] for m, a in areas.items()} == pytest.approx(expected, abs=1e-3)
    assert all(a["area_range"] == pytest.approx([0.8, 1.0]) for a in areas.values())
    assert areas["far"]["area_difference"]["value"] == pytest.approx(0.0875, abs=1e-3)
    assert tradeoff_areas(made_up(points)[0][1:], made_up(points)[1], "all") == {}  # without plain generation


def test_no_common_utility_and_fewer_strengths_are_a_dash_with_a_line():
    points = {"plain": ("none", 0.9, 1.0), "x": ("pe", 0.5, 0.8), "vain": ("vain", 0.0, 1.2)}
    rows, measured = made_up(points)
    add_areas(rows, measured)
    table = tradeoff_tables(rows, measured, "all")[1]
    assert [row[1:] for row in table.rows] == [["-", "-"]] * 2 and "no area is defined" in table.note
    more = {
        **points,
        "x2": ("pe", 0.4, 0.7),
        "vain": ("one", 0.1, 0.8),
        "ok1": ("ok", 0.4, 0.8),
        "ok2": ("ok", 0.3, 0.6),
    }
    rows, measured = made_up(more)
    add_areas(rows, measured)
    cells = {row[0]: row[1] for row in tradeoff_tables(rows, measured, "all")[1].rows}
    assert cells["one"] == "-" and "-" not in (cells["pe"], cells["ok"])
