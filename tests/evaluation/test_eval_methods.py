"""What compares mitigations: area under the trade-off curve, damage to ordinary prompts, audit; on made-up runs."""

import json

import numpy as np
import pytest

from eval_mem import main
from helpers.eval_runs import mixed, write_descriptor, write_ground_truth, write_mitigation
from memorization.evaluation.audit import hiding_strengths
from memorization.evaluation.tradeoff import area_under, tradeoff_areas


def evaluate(command, *args):
    main([command, *map(str, args)])
    return json.loads((args[-1] / f"{command}.json").read_text())


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


def test_damage_is_against_the_plain_image_of_the_same_seed(tmp_path):
    root, descriptor = write_ground_truth(tmp_path), write_descriptor(tmp_path)
    plain = [mixed(i, 0) for i in range(4)]
    other = plain[3][1].copy()
    other[:8, :8] = 255 - other[:8, :8]
    some = [*plain[:3], np.stack([plain[3][0], other])]  # one image of eight is another, in one quarter
    paths = [
        write_mitigation(root, "p", "none", None, plain),
        write_mitigation(root, "a", "pe", 2.0, some),
        write_mitigation(root, "b", "pe", 1.0, [mixed(i, 1) for i in range(4)]),
    ]
    rows = evaluate("damage", *paths, "--sscd", descriptor, "--output", tmp_path / "e")
    assert [(r["method"], r["strength"]) for r in rows] == [("none", 0), ("pe", 2), ("pe", 1)]
    assert [r["changed"]["value"] for r in rows] == [0, 1 / 8, 1]
    kept = [r["kept"]["value"] for r in rows]
    assert kept[0] == pytest.approx(1, abs=1e-5) and 7 / 8 - 1 / 8 <= kept[1] < 1 and kept[2] < kept[1]
    with pytest.raises(SystemExit, match="2"):
        main(["damage", *map(str, paths[1:])])


def test_audit_counts_what_was_hidden_and_came_back(tmp_path, capsys):
    """Of four memories three are hidden, of which one comes back; the control never does."""
    root, descriptor = write_ground_truth(tmp_path), write_descriptor(tmp_path)
    own = [mixed(0, 1), *(mixed(i, 0) for i in (1, 2, 3))]
    found = [mixed(0, 1), mixed(1, 1), mixed(2, 0), mixed(3, 0)]
    before = write_mitigation(root, "own", "pe", 1.0, own)
    after = write_mitigation(root, "audit", "pe", 1.0, found, prompt_embeds="found")
    never = write_mitigation(root, "control", "none", None, [mixed(i, 0) for i in range(4)], prompt_embeds="other")
    argv = ["--own", before, "--audited", after, "--sscd", descriptor, "--output", tmp_path / "e"]
    result, control = evaluate("audit", "--control", never, *argv)
    assert [result[n]["value"] for n in ("hidden", "copied", "returned")] == pytest.approx([3 / 4, 1 / 2, 1 / 3])
    assert control["copied"]["value"] == 0 and control["returned"]["value"] is None
    with pytest.raises(SystemExit, match="2"):
        main(["audit", "--own", str(never), *map(str, argv[2:])])
    assert "has no run of its method and strength" in capsys.readouterr().err


def test_the_weakest_strength_that_hides_is_chosen():
    runs = (("none", 0, 1.0), ("pe", 3, 0.5), ("pe", 2, 0.1), ("pe", 1, 0.0), ("gni", 1, 0.9), ("gni", 2, 0.8))
    results = [
        {"kind": kind, "method": m, "strength": s, "copied": {"value": c}} for m, s, c in runs for kind in ("k", "all")
    ]
    assert {m: r["strength"] for m, r in hiding_strengths(results).items()} == {"pe": 2, "gni": 2}
