"""Mitigation on made-up images whose answers are known."""

import json

import numpy as np
import pytest

from helpers.eval_runs import write_mitigated_runs
from memorization import evaluate


def test_mitigation_table_orders_copies(tmp_path):
    _, runs, descriptor = write_mitigated_runs(tmp_path)
    section = evaluate("mitigation", runs, sscd=descriptor, replicates=50)
    rows = [r for r in section.results if r["kind"] == "all"]
    assert [(r["method"], r["strength"]) for r in rows] == [("none", 0), ("pe", 2), ("pe", 1)]
    sscd = [r["sscd"]["value"] for r in rows]
    assert sscd[0] == pytest.approx(1, abs=1e-5) and sscd[0] > sscd[1] > sscd[2]
    assert rows[0]["copied"]["value"] == 1 and rows[0]["s"]["value"] == 0 and rows[0]["diversity"]["value"] < 1e-5
    section.save(tmp_path / "e")
    lines = [json.loads(line) for line in (tmp_path / "e" / "per_prompt.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {len(line["sscd"]) for line in lines} == {2}
    assert np.mean([np.mean(line["sscd"]) for line in lines[:4]]) == pytest.approx(sscd[0])
