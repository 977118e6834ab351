"""Copy descriptors beside one another, on images whose copies are known."""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from experiments import rulers
from experiments.planted_tables import copy_rulers, ruler_agreement, table
from experiments.rulers import rank_correlation
from tests.helpers.eval_runs import write_descriptor, write_mitigated_runs, write_run


def test_rank_correlation_is_that_of_ranks_and_its_interval_hangs_on_prompts():
    rng = np.random.default_rng(0)
    a = rng.normal(size=60)
    b, prompts = np.exp(a), [str(k // 2) for k in range(60)]
    assert rank_correlation(a, b, prompts)["value"] == pytest.approx(1)
    noisy = a + rng.normal(size=60)
    found = rank_correlation(a, noisy, prompts)
    assert found["value"] == spearmanr(a, noisy).statistic
    assert found["low"] < found["value"] < found["high"]


def test_a_descriptor_agrees_with_itself_and_every_copy_has_rank_one(tmp_path, capsys):
    root, (plain, *_), color = write_mitigated_runs(tmp_path)
    rows = [json.loads(line) for line in plain.read_text().splitlines()]
    other = [{**row, "is_memorized": False, "prompt": f"other {row['index']}"} for row in rows]
    controls = write_run(tmp_path, plain.stem.replace("none", "controls"), other, dataset=str(root))
    images = tmp_path / "images_data"
    (images / "plain_controls").symlink_to(images / "plain_none")
    (tmp_path / "again").mkdir()
    output = tmp_path / "rulers.json"
    argv = [str(plain), "--controls", str(controls), "--sscd", str(color)]
    again = write_descriptor(tmp_path / "again")
    again = again.rename(again.with_name(f"again_{again.name}"))  # of another name, which tells descriptors apart
    rulers.main([*argv, "--sscd", str(again), "--output", str(output)])
    found = json.loads(output.read_text())
    told = capsys.readouterr().out
    assert told.count("1.000") > 4
    kept = [table(make, output) for make in (copy_rulers, ruler_agreement)]
    assert "\n\n".join(kept) == told.strip()
    assert all(r["rank1"]["value"] == 1 for d in found["descriptors"].values() for r in d["results"])
