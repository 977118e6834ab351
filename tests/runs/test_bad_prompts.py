"""One bad prompt does not stop the others: empty captions, numbers that are none, pictures that are gone."""

import json

import numpy as np
import pytest
from PIL import Image

import detect_mem
import eval_mem
import inference_mem
from helpers.eval_runs import write_descriptor, write_ground_truth
from memorization.runs.detection import DetectionOutput

STEPS = ("--num_inference_steps", 2, "--num_images_per_prompt", 1)


@pytest.fixture
def run(loaded, model_folder, tmp_path, capsys):
    """Run a script on the tiny model; gives its exit code and what it said on standard error."""

    def call(main, *argv):
        argv = [*argv, "--model_id", model_folder, "--output_dir", tmp_path, *STEPS]
        code = 0
        try:
            main([str(a) for a in argv], pipe=loaded)
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().err

    return call


def prompts(folder, *captions):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"caption": c}) + "\n" for c in captions))
    return path


def rows(folder, name="test_ours"):
    return [json.loads(line) for line in (folder / "det_outputs" / f"{name}.jsonl").read_text().splitlines()]


def test_empty_captions_have_scores(run, tmp_path):
    path = prompts(tmp_path, "the wild owl poster", "", "   ", "\U0001f989", "red harbour " * 60)
    code, error = run(detect_mem.main, "--dataset", path, "--scores", "noise_diff_map,anisotropy,token_significance")
    assert code == 0, error
    found = rows(tmp_path)
    assert [row["index"] for row in found] == [0, 1, 2, 3, 4]
    assert found[0]["text_noise_norm_early_masked"][0] > 0.1
    # The empty prompt changes nothing: D is 0 but for rounding, and so is every score that is made of it.
    assert found[1]["text_noise_norm"][0][0] < 1e-3 and found[1]["text_noise_norm_early_masked"][0] < 1e-2


def nan_for(monkeypatch, *indices):
    make_row = DetectionOutput.make_row

    def with_nan(self, record, *args):
        row = make_row(self, record, *args)
        return row | {"text_noise_norm": [[float("nan")] * 2]} if record.index in indices else row

    monkeypatch.setattr(DetectionOutput, "make_row", with_nan)


def test_a_prompt_that_gives_nan_is_named_and_the_others_are_finished(run, loaded, tmp_path, monkeypatch):
    path = prompts(tmp_path, "a red owl", "a blue owl", "a green owl")
    with monkeypatch.context() as patch:
        nan_for(patch, 1)
        code, error = run(detect_mem.main, "--dataset", path, "--batch_size", 1)
    assert code == 2 and "warning: prompt 1: text_noise_norm is NaN or infinite" in error
    last = error.strip().splitlines()[-1]
    assert last.startswith("error: 1 prompt has no row, as text_noise_norm of prompt 1 is NaN") and "float32" in last
    assert [row["index"] for row in rows(tmp_path)] == [0, 2]
    npz = tmp_path / "images_data" / "test_ours_generated_images.npz"
    assert len(np.load(npz)["images"]) == 2
    before = loaded.num_unet_evals
    assert run(detect_mem.main, "--dataset", path, "--batch_size", 1)[0] == 0  # only what is left is done
    assert loaded.num_unet_evals - before == 2 * 2 and [row["index"] for row in rows(tmp_path)] == [0, 1, 2]
    assert len(np.load(npz)["images"]) == 3


def test_a_run_of_nothing_but_nan(run, tmp_path, monkeypatch):
    nan_for(monkeypatch, 0, 1)
    code, error = run(detect_mem.main, "--dataset", prompts(tmp_path, "a", "b"))
    assert code == 2 and "error: 2 prompts have no row, as text_noise_norm of prompt 0" in error


def test_prompts_without_a_picture_are_generated_and_left_out_of_comparisons(run, tmp_path, capsys):
    truth = write_ground_truth(tmp_path, 3)
    (truth / "gt_images" / "0" / "0.png").unlink()
    code, error = run(inference_mem.main, "--dataset", truth)
    assert code == 0 and "1 of 3 prompts have no training image, the first is prompt 0" in error
    found = rows(tmp_path, "test_none_mitigation")
    assert [("pixel_similarity" in row) for row in found] == [False, True, True]
    descriptor = write_descriptor(tmp_path)
    tracked = ("--with_tracking", "--sscd", descriptor, "--run_name", "b")
    assert run(inference_mem.main, "--dataset", truth, *tracked)[0] == 0
    measured = [json.loads(s) for s in (tmp_path / "det_outputs/b_none_mitigation.similarity.jsonl").open()]
    assert [("sscd" in m) for m in measured] == [False, True, True]
    result = tmp_path / "det_outputs" / "test_none_mitigation.jsonl"
    eval_mem.main([str(a) for a in ("mitigation", result, "--sscd", descriptor, "--output", tmp_path / "e")])
    assert "1 of 3 prompts of" in capsys.readouterr().err
    results = json.loads((tmp_path / "e" / "mitigation.json").read_text())
    assert [r["prompts"] for r in results if r["kind"] == "all"] == [2]
    assert run(detect_mem.main, "--dataset", truth)[0] == 0 and len(rows(tmp_path)) == 3


@pytest.mark.parametrize("fault", ["cut", "black", "mask", "bomb"])
def test_a_damaged_picture_is_named_before_the_first_image(run, loaded, tmp_path, fault):
    truth = write_ground_truth(tmp_path, 3)
    path = truth / ("gt_masks/2.png" if fault == "mask" else "gt_images/2/0.png")
    if fault == "black" or fault == "mask":
        Image.new("RGB", (16, 16)).save(path)
    elif fault == "cut":
        path.write_bytes(path.read_bytes()[:60])
    else:
        Image.MAX_IMAGE_PIXELS, kept = 100, Image.MAX_IMAGE_PIXELS
    before = loaded.num_unet_evals
    try:
        code, error = run(inference_mem.main, "--dataset", truth)
    finally:
        if fault == "bomb":
            Image.MAX_IMAGE_PIXELS = kept
    assert code == 2 and loaded.num_unet_evals == before
    assert ("0.png" if fault == "bomb" else str(path)) in error.strip().splitlines()[-1]


def test_a_descriptor_of_another_kind_is_refused_before_the_first_image(run, loaded, tmp_path):
    import torch

    torch.jit.script(torch.nn.Identity()).save(str(tmp_path / "d.pt"))
    before = loaded.num_unet_evals
    evaluated = ("--with_tracking", "--sscd", tmp_path / "d.pt")
    code, error = run(inference_mem.main, "--dataset", write_ground_truth(tmp_path, 2), *evaluated)
    assert code == 2 and "d.pt gives float32 of shape" in error and loaded.num_unet_evals == before
