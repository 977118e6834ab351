"""eval_mem.py on made-up runs whose answers are known: what it writes, prints and refuses."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import eval_mem
from helpers.eval_runs import (
    detection_rows,
    find,
    make_row,
    write_detection_runs,
    write_located_run,
    write_mitigated_runs,
    write_run,
)
from memorization.detectors.base import DETECTORS
from memorization.files.masks import MaskStore


def evaluate(command, *paths, output, **options):
    """Run a subcommand in this process with few resamples; returns the JSON it wrote."""
    flags = [
        part for k, v in options.items() for part in (f"--{k}", *(map(str, v) if isinstance(v, list) else [str(v)]))
    ]
    few = [] if command in ("detection", "decisions", "audit") else ["--bootstrap", "50"]
    eval_mem.main([command, *map(str, paths), *flags, *few, "--output", str(output)])
    results = json.loads((output / f"{command}.json").read_text())
    return results["scores"] if command == "detection" else results


def refused(capsys, *argv):
    """The one line that a call ends with, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        eval_mem.main([*map(str, argv)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def detection_runs(tmp_path):
    return write_detection_runs(tmp_path)


@pytest.fixture
def located(tmp_path):
    return *write_located_run(tmp_path), tmp_path / "e"


@pytest.fixture
def mitigated(tmp_path):
    return write_mitigated_runs(tmp_path)


def test_it_never_loads_a_diffusion_model():
    code = "import eval_mem, sys; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=eval_mem.__file__.rpartition("/")[0]).returncode == 0


def test_a_detector_of_ones_own_is_named_and_costed(detection_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(DETECTORS, "records", dict(DETECTORS.complete()))
    mem, others = detection_runs
    plugin = tmp_path / "plugin_of_the_evaluation_test.py"
    plugin.write_text(
        "from memorization.detectors.base import detector\n\n\n"
        '@detector("own", keys={"new_score": "my own score"}, source="ours", steps=1, cost=(3, 0))\n'
        'def own(trace):\n    """My own score."""\n'
    )
    results = evaluate("detection", output=tmp_path / "e", mem=mem, nonmem=others, plugin=plugin)
    assert {r["score"] for r in find(results, key="new_score")} == {"my own score"}
    assert "| my own score " in (tmp_path / "e" / "detection.md").read_text()
    assert (tmp_path / "e" / "cost.png").exists()


def test_damage_and_audit_write_their_numbers(mitigated, tmp_path, capsys):
    _, (plain, weak, strong), descriptor = mitigated
    rows = evaluate("damage", plain, weak, strong, output=tmp_path / "e", sscd=descriptor)
    assert [r["method"] for r in rows] == ["none", "pe", "pe"]
    assert "none of the runs is plain generation" in refused(capsys, "damage", weak, strong)
    rows = evaluate("audit", output=tmp_path / "e", own=[weak, strong], audited=strong, sscd=descriptor)
    assert [(r["method"], r["strength"]) for r in rows] == [("pe", 1)]
    argv = ("audit", "--own", plain, "--audited", strong, "--sscd", descriptor)
    assert "has no run of its method and strength" in refused(capsys, *argv)
    assert "give a copy descriptor by --sscd" in refused(capsys, *argv[:-2])


def test_detection_finds_every_score_and_draws(tmp_path, detection_runs, capsys):
    mem, others = detection_runs
    results = evaluate("detection", output=tmp_path / "e", mem=mem, nonmem=others)
    assert {r["score"] for r in results} == {"D", "new_score", "end-token attention"}  # not uncond_noise_norm
    assert {r["memorized_kind"] for r in results} == {"verbatim", "template", "all memorized"}
    assert {r["T"] for r in find(results, key="text_noise_norm")} == {1, None}  # of 4 steps, 10 is all of them
    told = capsys.readouterr().out
    assert "TPR@1%FPR*" in told and "* Fewer than 100 negative prompts" in told
    for name in ("roc", "scores", "auc_by_steps"):
        with Image.open(tmp_path / "e" / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_kinds_from_a_table_by_caption(tmp_path, detection_runs, capsys):
    """Semicolons and a column called type, as NeMo's labels have them; prompts without a label keep their own."""
    mem, others = detection_runs
    table = tmp_path / "labels.csv"
    table.write_text(";Caption;type\n0;prompt 0;VM\n1;prompt 1;TM\n2;prompt 2;TM\n")
    results = evaluate("detection", output=tmp_path / "e", mem=mem, nonmem=others, kinds=table)
    counts = {r["memorized_kind"]: r["memorized"] for r in results}
    assert counts == {"VM": 1, "TM": 2, "verbatim": 4, "template": 5, "all memorized": 12}
    argv = ("detection", "--mem", *mem, "--nonmem", *others, "--kinds", table)
    table.write_text("caption,kind\nanother,VM\n")
    assert "labels.csv has none of the prompts in" in refused(capsys, *argv)
    table.write_text("caption,x\nprompt 0,VM\n")
    assert "needs the columns caption and kind (or type); it has caption, x" in refused(capsys, *argv)


def test_calibration_writes_a_threshold_or_says_how_many_prompts_it_takes(tmp_path, detection_runs, capsys):
    mem, others = detection_runs
    argv = {"mem": mem, "nonmem": others, "score": "end_token_attention", "horizon": "all"}
    evaluate("detection", output=tmp_path / "e", **argv, calibrate=0.1, threshold_file=tmp_path / "t.json")
    threshold = json.loads((tmp_path / "t.json").read_text())
    rows = [json.loads(line) for line in others[0].read_text().splitlines()]  # the same prompts in every run
    assert threshold["threshold"] == pytest.approx(max(np.mean(r["end_token_attention"]) for r in rows))
    assert (threshold["key"], threshold["T"], threshold["num_images"]) == ("end_token_attention", None, 2)
    assert "12 controls" in capsys.readouterr().out
    few = ("detection", "--mem", *mem, "--nonmem", *others, "--calibrate", "0.01", "--output", tmp_path / "f")
    assert "0.01 takes 99 or more prompts that are not memorized, not 12" in refused(capsys, *few)
    assert not (tmp_path / "f").exists()  # before the work


def test_decisions_are_written_from_result_files(tmp_path, detection_runs, capsys):
    mem, others = detection_runs
    lines = evaluate("decisions", mem[0], output=tmp_path / "e", controls=others[0], fdr=0.3)
    assert {"index", "prompt", "score", "p", "q", "memorized"} == lines[0].keys()
    assert "give a finished run of them by --controls" in refused(capsys, "decisions", mem[0])


def damaged(path, line, **changes):
    """Change a row, or replace it by a text."""
    lines = path.read_text().splitlines()
    lines[line] = changes["text"] if "text" in changes else json.dumps({**json.loads(lines[line]), **changes})
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_noise_norm": [[float("nan")] * 4] * 2}, "line 3: text_noise_norm holds NaN"),
        ({"text_noise_norm": [[1.0] * 4]}, "line 3: text_noise_norm is of 1 images, the row's seeds are 2"),
        ({"text_noise_norm": [[1.0] * 4, [1.0] * 3]}, "line 3: text_noise_norm has steps or images missing"),
        ({"text": '{"index": 2, "prompt": "p"}'}, "line 3: a row of another version, without seeds"),
        ({"text": "not json"}, "line 3: not JSON"),
        ({"is_memorized": False}, "given by --mem, but its prompt 2 is labelled otherwise"),
    ],
)
def test_damaged_rows_end_in_one_line(detection_runs, tmp_path, capsys, changes, message):
    mem, others = detection_runs
    damaged(mem[0], 2, **changes)
    assert message in refused(capsys, "detection", "--mem", *mem, "--nonmem", *others, "--output", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_runs_that_cannot_be_compared(detection_runs, tmp_path, capsys):
    mem, others = detection_runs
    other_model = write_run(tmp_path, "x", detection_rows(False, 0), model_id="another")
    assert "model_id is 'm' and 'another'" in refused(capsys, "detection", "--mem", *mem, "--nonmem", other_model)
    rows = detection_rows(True, 1, count=2)
    rows[3] = detection_rows(True, 1, count=3)[3]
    uneven = write_run(tmp_path, "uneven", rows)
    assert "unequal numbers of images: 2" in refused(capsys, "detection", "--mem", uneven, "--nonmem", *others)
    argv = ("detection", "--mem", *mem, "--nonmem", *others, "--num_images", "5")
    assert "--num_images 5 is more than the runs have: 2" in refused(capsys, *argv)
    mem[0].with_suffix(".config.json").unlink()
    assert "no mem0.config.json beside it" in refused(capsys, "detection", "--mem", mem[0], "--nonmem", *others)
    assert "does not exist" in refused(capsys, "detection", "--mem", tmp_path / "none.jsonl")
    assert "does not give both classes" in refused(capsys, "detection", "--mem", mem[1])


@pytest.mark.parametrize("flags", ["--horizon x", "--horizons 0", "--calibrate 1", "--num_images 0", "--calibrate 0"])
def test_values_out_of_range_exit_with_code_2(detection_runs, capsys, flags):
    mem, others = detection_runs
    with pytest.raises(SystemExit) as stop:
        eval_mem.main(["detection", "--mem", *map(str, mem), "--nonmem", *map(str, others), *flags.split()])
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(detection_runs, tmp_path, capsys):
    mem, others = detection_runs
    (tmp_path / "file").write_text("")
    argv = ["--mem", *mem, "--nonmem", *others, "--output", tmp_path / "file" / "sub"]
    assert "choose another --output" in refused(capsys, "detection", *argv)
    assert "choose another --output" in refused(capsys, "report", *mem, "--output", tmp_path / "file" / "r.html")


def test_masks_for_ls_must_be_those_of_the_runs(mitigated, tmp_path, capsys):
    """The run's own mask file is used where it fits and left alone where not; one that is named has to fit."""
    root, runs, descriptor = mitigated
    store = MaskStore({"model_id": "m", "guidance_scale": 7.5, "num_inference_steps": 4})
    for i in range(4):
        store.add(i, f"prompt {i}", make_row(i)["seeds"], torch.ones(2, 1, 4, 4), 8.0)
    (tmp_path / "attn_data").mkdir()
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    results = evaluate("mitigation", *runs, output=tmp_path / "e", sscd=descriptor)
    for row in results:  # a flat mask weighs nothing: LS is S
        assert row["ls"]["value"] == pytest.approx(row["s"]["value"])
    store.settings["model_id"] = "another"
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "ls" not in evaluate("mitigation", *runs, output=tmp_path / "e", sscd=descriptor)[0]
    argv = (*runs, "--sscd", descriptor, "--masks", tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "are of model_id 'another'" in refused(capsys, "mitigation", *argv)
    store.settings["model_id"] = "m"
    del store.masks[3, make_row(3)["seeds"][1]]
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "has no mask of prompt 3" in refused(capsys, "mitigation", *argv)


def test_faults_of_mitigation_runs(mitigated, tmp_path, capsys):
    root, runs, descriptor = mitigated
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, weights)
    for path, message in ((weights, "is not a TorchScript file"), (tmp_path / "none.pt", "does not exist")):
        assert message in refused(capsys, "mitigation", *runs, "--sscd", path)
    rows = [json.loads(line) for line in runs[1].read_text().splitlines()]
    fewer = write_run(tmp_path, "c_pe_mitigation", [r | {"seeds": r["seeds"][:1]} for r in rows], dataset=str(root))
    assert "unequal numbers of images per prompt: 2 and 1" in refused(capsys, "mitigation", runs[0], fewer)
    part = write_run(tmp_path, "d_pe_mitigation", rows[:3], dataset=str(root))
    assert "not of the same prompts and seeds" in refused(capsys, "mitigation", runs[0], part)
    plain = "planted/planted_memorized.jsonl"
    assert "has another prompt at index 0" in refused(capsys, "mitigation", *runs, "--dataset", plain)
    detection = write_run(tmp_path, "det_ours", [make_row(i) for i in range(4)])
    assert "is no result of inference_mem.py" in refused(capsys, "mitigation", detection)


def test_placeholders_and_missing_images_are_named(mitigated, tmp_path, capsys):
    root, runs, descriptor = mitigated
    Image.new("RGB", (16, 16)).save(root / "gt_images" / "1" / "0.png")
    assert "0.png is all black, a placeholder" in refused(capsys, "mitigation", *runs, "--sscd", descriptor)
    Image.new("RGB", (16, 16), "red").save(root / "gt_images" / "1" / "0.png")
    next((tmp_path / "images_data" / "b_pe").glob("0_*.png")).unlink()
    assert "is not a readable image" in refused(capsys, "mitigation", runs[2])


def test_faults_of_maps_and_masks_are_named(located, tmp_path, capsys):
    root, path, output = located
    file = tmp_path / "attn_data" / "loc_ours_maps" / "1.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    assert "1.npz is not a readable npz file of maps" in refused(capsys, "localisation", path)
    file.unlink()
    assert "1.npz does not exist; run detect_mem.py with --store_maps" in refused(capsys, "localisation", path)
    assert "has no true masks" in refused(capsys, "localisation", path, "--masks", tmp_path)
    assert "mask folder" in refused(capsys, "localisation", path, "--masks", tmp_path / "none")
