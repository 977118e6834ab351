"""Mitigations at equal utility and over all strengths, by hand."""

import numpy as np
import pytest

from memorization.evaluation.tradeoff import (
    add_areas,
    against_reference,
    area_under,
    privacy_at,
    tradeoff_areas,
    tradeoff_tables,
)


def test_a_run_against_pe_at_its_own_utility_by_hand():
    """PE falls from (1, .9) to (.2, .5) in SSCD and CLIP: at the others' CLIP of .7 and .4 it has .6, and nothing."""
    curve = np.array([[[1.0, 0.9], [0.2, 0.5]]])
    assert privacy_at(curve, np.array([0.7]))[0] == pytest.approx(0.6)
    assert np.isnan(privacy_at(curve, np.array([0.95]))[0])
    assert privacy_at(np.array([[[1.0, 0.5], [0.6, 0.9], [0.2, 0.5]]]), np.array([0.7]))[0] == pytest.approx(0.4)
    points = {"plain": ("none", 1, 0.9), "x": ("pe", 0.2, 0.5), "y": ("prss", 0.1, 0.7), "z": ("prss", 0.0, 0.4)}
    measured = {run: [{"kind": "k", "sscd": [s], "clip": [c]} for _ in range(3)] for run, (_, s, c) in points.items()}
    value = {"value": 0.0, "low": 0.0, "high": 0.0}
    rows = [
        {"kind": "all", "run": r, "method": m, "strength": 1, "sscd": value, "clip": value}
        for r, (m, _, _) in points.items()
    ]
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


def test_area_under_the_curve_by_hand():
    """Over CLIP 0.5 to 1, a strength with CLIP 0.7 and SSCD 0.1 holds for 0.2 of it, plain's 0.9 for the rest."""
    curve = np.array([[[0.9, 1.0], [0.1, 0.7], [0.5, 0.6]]])  # the third is worse in both
    assert area_under(curve, np.array([1.0])) == pytest.approx([0.4 * 0.1 + 0.6 * 0.9])
    points = {"plain": ("none", 0.9, 1.0), "x": ("pe", 0.3, 0.8), "y": ("good", 0.1, 0.7), "z": ("vain", 0.0, 0.4)}
    measured = {run: [{"kind": "k", "sscd": [s], "clip": [c]}] * 3 for run, (_, s, c) in points.items()}
    rows = [{"kind": "all", "run": run, "method": method} for run, (method, _, _) in points.items()]
    areas = tradeoff_areas(rows, measured, "all")
    expected = {"pe": 0.6 * 0.3 + 0.4 * 0.9, "good": 0.4 * 0.1 + 0.6 * 0.9, "vain": 0.9}
    assert {m: a["value"] for m, (a, _) in areas.items()} == pytest.approx(expected, abs=1e-9)
    assert areas["good"][1]["value"] == pytest.approx(0.04) and areas["good"][1]["low"] == pytest.approx(0.04)
    assert tradeoff_areas(rows[1:], measured, "all") == {}  # without plain generation
