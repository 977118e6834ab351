"""`detect_mem.py --scores`: what rows get, what it costs, what is refused."""

import json
import re

import pytest
import torch

import detect_mem
from memorization.bundled import PLANTED
from memorization.detectors.base import DETECTORS
from memorization.files.layout import RunFiles
from memorization.files.maps import load_maps

PROMPTS = ["--dataset", str(PLANTED / "planted_memorized.jsonl"), "--end", "2", "--num_images_per_prompt", "2"]


@pytest.fixture
def detect(tmp_path, loaded):
    """Run detection on the tiny model with five steps; gives its rows, and the evaluations it took."""

    def detect(name, *more):
        before = loaded.num_unet_evals, loaded.num_unet_gradients
        common = ["--run_name", name, "--num_inference_steps", "5", "--output_dir", str(tmp_path)]
        detect_mem.main([*PROMPTS, *common, *map(str, more)], loaded)
        version = "baseline" if "baseline" in more else "ours"
        lines = (tmp_path / "det_outputs" / f"{name}_{version}.jsonl").read_text().splitlines()
        cost = loaded.num_unet_evals - before[0], loaded.num_unet_gradients - before[1]
        return [json.loads(line) for line in lines], cost

    return detect


def test_all_scores_come_from_one_generation_and_what_they_add(detect, tmp_path, capsys):
    plain, plain_cost = detect("plain")
    rows, cost = detect("all", "--scores", "all", "--store_maps")
    added = [sum(4 * d.cost[k] for d in DETECTORS.values() if not d.needs_base) for k in (0, 1)]
    assert [c - p for c, p in zip(cost, plain_cost, strict=True)] == added
    for a, b in zip(plain, rows, strict=True):
        assert all(a[k] == b[k] for k in a if k != "unet_evals_per_image")
        for key in ("sharpness", "curvature_diff", "hessian_map", "anisotropy", "tiled_l2", "attention_entropy",
                    "score_change_1", "token_significance_words", "text_noise_norm_early_masked"):  # fmt: skip
            assert torch.tensor(b[key]).shape == (2,) and torch.tensor(b[key]).isfinite().all()
        assert torch.tensor(b["x0_norm"]).shape == (2, 5)
        assert b["score_costs"]["hessian_map"] == [2, 32]
    assert re.search(r"\| hessian_map +\| - ", capsys.readouterr().out)
    assert load_maps(RunFiles(tmp_path, "all_ours").map(0), 2)["map.hessian_map"].shape == (2, 16, 16)


def test_early_scores_need_no_whole_generation(detect):
    early = ["--run_version", "baseline", "--early_exit", "1", "--scores", "sharpness,curvature_diff,noise_diff_map"]
    rows, cost = detect("early", *early)
    assert cost == (4 * (2 + 4), 4 * 4) and "text_noise_norm_early_masked" in rows[0]
    whole, _ = detect("whole", "--scores", "sharpness")
    assert [r["sharpness"] for r in rows] == [r["sharpness"] for r in whole]


def test_broken_memories_are_measured_against_a_run_of_other_prompts(detect, tmp_path):
    first, _ = detect("ordinary", "--scores", "broken_memories")
    assert "broken_memories" not in first[0]
    path = tmp_path / "det_outputs" / "ordinary_ours.jsonl"
    rows, _ = detect("other", "--scores", "broken_memories", "--calibration", path, "--gen_seed", 1)
    norms = {n: torch.tensor([x for r in first for x in r[n]]) for n in ("update_norm", "x0_norm")}
    z = [(torch.tensor(rows[0][n]) - v.mean(0)) / v.std(0) for n, v in norms.items()]
    torch.testing.assert_close(
        torch.tensor(rows[0]["broken_memories"]), torch.minimum(*z).amax(1), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scores", "sharpnes"], "has no 'sharpnes'; did you mean sharpness? give all, or some of noise_diff_norm"),
        (["--scores", "tiled_l2", "--num_images_per_prompt", "1"], "compares finished images"),
        (["--scores", "score_change", "--early_exit", "2", "--run_version", "baseline"], "needs 3 steps"),
        (["--scores", "hessian_map", "--early_exit", "2", "--run_version", "baseline"], "needs the last step"),
        (["--scores", "be_masked", "--run_version", "baseline"], "needs --run_version ours"),
        (["--calibration", "nowhere.jsonl"], "does not exist"),
    ],
)
def test_scores_that_a_run_cannot_give_are_refused(detect, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        detect("x", *options)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--guidance_scale", "3"], "guidance_scale 7.5, this run's is 3.0"),
        (["--num_inference_steps", "4"], "num_inference_steps 5, this run's is 4"),
        (["--image_length", "48"], "image_length None, this run's is 48"),
        (["--early_exit", "3", "--run_version", "baseline"], "early_exit None, this run's is 3"),
    ],
)
def test_a_calibration_that_was_made_otherwise_is_refused(detect, tmp_path, loaded, capsys, options, message):
    detect("ordinary", "--scores", "broken_memories")
    path, before = tmp_path / "det_outputs" / "ordinary_ours.jsonl", loaded.num_unet_evals
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        detect("other", "--scores", "broken_memories", "--calibration", path, *options)
    told = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert stop.value.code == 2 and len(told) == 1 and f"--calibration {path} was made with" in told[0]
    assert loaded.num_unet_evals == before
    assert message in told[0]
