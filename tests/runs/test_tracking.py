"""What a run logs while it goes and measures at its end: trackers, similarity, decisions by a threshold."""

import json

import numpy as np
import pytest

import detect_mem
import eval_mem
import inference_mem
from helpers.eval_runs import write_descriptor
from memorization.bundled import PLANTED
from memorization.evaluation.thresholds import Threshold


@pytest.fixture
def run(tmp_path, model_folder, monkeypatch):
    """Run a script on the tiny model with two steps and two prompts; returns the output folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def call(script, *argv, end=2):
        common = ["--output_dir", tmp_path, "--num_inference_steps", 2, "--model_id", model_folder, "--end", end]
        script.main([str(a) for a in (*common, *argv)])
        return tmp_path

    return call


def json_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_jsonl_is_the_default_tracker(run):
    folder = run(detect_mem, "--with_tracking", "--num_images_per_prompt", 1)
    lines = json_lines(folder / "det_outputs" / "test_ours.tracking.jsonl")
    rows = json_lines(folder / "det_outputs" / "test_ours.jsonl")
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["seconds"] <= lines[1]["seconds"]
    assert [line["mean_text_noise_norm"] for line in lines] == [row["mean_text_noise_norm"] for row in rows]


def test_tensorboard_gets_the_same_numbers(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(detect_mem, "--with_tracking", "--tracker", "tensorboard", "--num_images_per_prompt", 1)
    events = EventAccumulator(str(folder / "det_outputs" / "test_ours"))
    events.Reload()
    scalars = events.Scalars("mean_text_noise_norm")
    rows = json_lines(folder / "det_outputs" / "test_ours.jsonl")
    assert [s.step for s in scalars] == [1, 2]
    assert [s.value for s in scalars] == pytest.approx([row["mean_text_noise_norm"] for row in rows])


def test_a_tracker_that_is_not_installed_is_refused_before_the_work(run, capsys, monkeypatch):
    monkeypatch.setattr("memorization.runs.tracking.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        run(detect_mem, "--with_tracking", "--tracker", "wandb")
    assert stop.value.code == 2 and "needs the package wandb: pip install wandb" in capsys.readouterr().err


def test_similarity_at_the_end_of_a_run_equals_evaluating_it_later(run, tmp_path, capsys):
    sscd = ["--sscd", write_descriptor(tmp_path)]
    clip = ["--reference_model", PLANTED / "planted_evaluators" / "planted_clip"]
    folder = run(inference_mem, "--with_tracking", "--num_images_per_prompt", 2, *sscd, *clip)
    assert "preprocessing wen" in capsys.readouterr().out
    stem = folder / "det_outputs" / "test_none_mitigation"
    measured = json_lines(stem.with_suffix(".similarity.jsonl"))
    logged = json_lines(stem.with_suffix(".tracking.jsonl"))[-1]
    eval_mem.main(["mitigation", f"{stem}.jsonl", *map(str, sscd), *map(str, clip), "--output", str(tmp_path / "e")])
    later = json.loads((tmp_path / "e" / "mitigation.json").read_text())[0]
    for name in ("sscd", "clip", "diversity"):
        mean = np.mean([np.mean(m[name]) for m in measured])
        assert logged[f"mean_{name}"] == pytest.approx(mean) == pytest.approx(later[name]["value"])
    assert all(len(m["sscd"]) == len(m["clip"]) == 2 for m in measured)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--sscd", "x.pt"], "used with --with_tracking"),
        (["--sscd", "none.pt", "--with_tracking"], "none.pt does not exist"),
        (["--sscd", "x.pt", "--with_tracking", "--dataset", "planted_memorized.jsonl"], "memorized.jsonl has none"),
        (["--sscd", "x.pt", "--with_tracking", "--no-store_img_png", "--no-store_img_npz"], "need the images"),
    ],
)
def test_evaluation_that_cannot_be_done_is_refused_first(run, capsys, argv, message):
    with pytest.raises(SystemExit) as stop:
        run(inference_mem, *argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.fixture
def threshold(run, tmp_path):
    """A detection run of the tiny model and a threshold between its two prompts' scores."""
    run(detect_mem, "--num_images_per_prompt", 2)
    rows = json_lines(tmp_path / "det_outputs" / "test_ours.jsonl")
    scores = [np.mean([norms[0] for norms in row["text_noise_norm"]]) for row in rows]
    settings = json.loads((tmp_path / "det_outputs" / "test_ours.config.json").read_text())["settings"]
    made = Threshold("text_noise_norm", 1, float(np.mean(scores)), 0.01, 99, 2, settings)
    (tmp_path / "t.json").write_text(made.save_text())
    return tmp_path / "t.json", scores


def test_a_threshold_file_says_yes_or_no_for_every_prompt(run, tmp_path, threshold, capsys):
    path, scores = threshold
    run(detect_mem, "--num_images_per_prompt", 2, "--threshold_file", path)  # a finished run: nothing is generated
    lines = json_lines(tmp_path / "det_outputs" / "test_ours.decisions.jsonl")
    assert [line["memorized"] for line in lines] == [s > np.mean(scores) for s in scores]
    assert [line["score"] for line in lines] == pytest.approx(scores)
    assert "1 of 2 prompts above the threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"model_id": "another"}}, "is of an older version"),
        ({"num_negatives": 98}, "is of an older version"),
        ({"threshold": "high"}, "is not a threshold file"),
        ({"extra": 1}, "is not a threshold file"),
    ],
)
def test_a_threshold_of_something_else_is_refused(run, threshold, capsys, changes, message):
    path, _ = threshold
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SystemExit) as stop:
        run(detect_mem, "--threshold_file", path, "--num_images_per_prompt", 2)
    assert stop.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "other"),
    [("model_id", "another"), ("num_images_per_prompt", 16), ("dtype", "torch.float16"), ("seed_mode", "original")],
)
def test_a_threshold_of_another_way_to_score_is_refused(run, threshold, capsys, name, other):
    path, _ = threshold
    saved = json.loads(path.read_text())
    saved["settings"]["content"] = {}  # a model of the same content is the same, whatever it is called
    path.write_text(json.dumps(saved | {"settings": saved["settings"] | {name: other}}))
    with pytest.raises(SystemExit) as stop:
        run(detect_mem, "--threshold_file", path, "--num_images_per_prompt", 2)
    assert stop.value.code == 2 and f"calibrated with {name} {other!r}" in capsys.readouterr().err


def test_a_masked_threshold_needs_a_masked_run(run, threshold, capsys):
    path, _ = threshold
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": "text_noise_norm_masked"}))
    with pytest.raises(SystemExit) as stop:
        run(detect_mem, "--threshold_file", path, "--run_version", "baseline", "--num_images_per_prompt", 2)
    assert stop.value.code == 2 and "is for LD, which --run_version baseline does not give" in capsys.readouterr().err


def test_control_prompts_decide_at_a_false_discovery_rate(run, tmp_path, capsys):
    """P-values by hand; the score that decides is measured without being asked for by --scores."""
    common = ("--num_images_per_prompt", 1, "--num_inference_steps", 3)
    ordinary = ("--dataset", "planted/planted_nonmemorized.jsonl")
    run(detect_mem, "--run_name", "control", "--scores", "sharpness", *ordinary, *common, end=4)
    controls = tmp_path / "det_outputs" / "control_ours.jsonl"
    capsys.readouterr()
    decided = ("--controls", controls, "--score", "sharpness", "--fdr", 0.5)
    run(detect_mem, *common, *decided)
    told = capsys.readouterr().out
    lines = json_lines(tmp_path / "det_outputs" / "test_ours.decisions.jsonl")
    known = [row["sharpness"][0] for row in json_lines(controls)]
    assert [line["p"] for line in lines] == [(1 + sum(c >= line["score"] for c in known)) / 5 for line in lines]
    assert [line["memorized"] for line in lines] == [line["q"] <= 0.5 for line in lines]
    assert "controls are exchangeable with" in told and str(controls) in told and "against 4 controls" in told
    for argv, message in (
        (("--num_images_per_prompt", 2), "num_images_per_prompt 1, this run's is 2"),
        (("--guidance_scale", 3), "guidance_scale 7.5, this run's is 3.0"),
        (("--threshold_file", "x.json"), "both decide: give one of them"),
        (("--score", "hessian_map"), "has no score hessian_map"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(detect_mem, *common, *decided, *argv, "--run_name", "other")
        assert stop.value.code == 2 and message in capsys.readouterr().err


def test_stored_maps_are_evaluated_and_cannot_be_added_later(run, tmp_path, capsys):
    common = ["--num_images_per_prompt", 1, "--dataset", "planted_mem_groundtruth", "--start", 15]
    run(detect_mem, *common, "--store_maps", end=17)
    rows = tmp_path / "det_outputs" / "test_ours.jsonl"
    eval_mem.main(["localisation", str(rows), "--output", str(tmp_path / "e"), "--bootstrap", "20"])
    results = json.loads((tmp_path / "e" / "localisation.json").read_text())
    layers = {r["map"] for r in results if r["map"].startswith("end token, ")}
    assert len(layers) == 6 and {r["kind"] for r in results} == {"verbatim", "template", "all"}
    run(detect_mem, *common, "--run_name", "without", end=17)
    with pytest.raises(SystemExit):
        run(detect_mem, *common, "--run_name", "without", "--store_maps", end=17)
    assert "is missing although its row is finished; rerun with --overwrite" in capsys.readouterr().err
