"""Runs are tied to content: of the model, the prompts and the files that are given, not to where they lie."""

import json
import shutil

import pytest

import detect_mem
import inference_mem
from helpers.models import change_weights, model_copy, write_json
from memorization.bundled import MODEL, PLANTED
from memorization.errors import InputError
from memorization.evaluation.thresholds import Threshold
from memorization.finished_runs import check_same_model, load_masks, read_run
from memorization.models.stable_diffusion import load_pipeline

COMMON = ("--num_images_per_prompt", "1", "--num_inference_steps", "2", "--device", "cpu")


@pytest.fixture
def folder(tmp_path, model_folder):
    return model_copy(tmp_path / "m", model_folder)


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"caption": f"a {c} owl"}) + "\n" for c in ("red", "blue")))
    return path


@pytest.fixture
def detect(tmp_path, capsys):
    """Run detection; gives the finished run, or the line that refuses it."""

    def detect(model, prompts, *more):
        argv = ["--model_id", model, "--dataset", prompts, *COMMON, "--output_dir", tmp_path / "out", *more]
        capsys.readouterr()
        try:
            detect_mem.main([str(a) for a in argv])
        except SystemExit as stop:
            assert stop.code == 2
            return capsys.readouterr().err
        name = more[more.index("--run_name") + 1] if "--run_name" in more else "test"
        return read_run(tmp_path / "out" / "det_outputs" / f"{name}_ours.jsonl")

    return detect


def halve_last_layer(folder):
    def halve(tensors):
        tensors["conv_out.weight"] *= 0.5
        tensors["conv_out.bias"] *= 0.5

    change_weights(folder / "unet" / "diffusion_pytorch_model.safetensors", halve)


def test_a_model_that_was_changed_in_place_is_another(detect, folder, prompts):
    before = detect(folder, prompts).rows[0]["text_noise_norm"][0][0]
    halve_last_layer(folder)
    told = detect(folder, prompts)
    assert (
        f"the model {str(folder)!r} of model_id has changed since" in told and "--run_name or pass --overwrite" in told
    )
    after = detect(folder, prompts, "--overwrite").rows[0]["text_noise_norm"][0][0]
    assert after == pytest.approx(before / 2, rel=1e-4)


def test_the_same_model_and_prompts_elsewhere_go_on(detect, folder, prompts, tmp_path):
    detect(folder, prompts, "--end", "1")
    moved, other = tmp_path / "moved", tmp_path / "other.jsonl"
    shutil.copytree(folder, moved)
    config = json.loads((moved / "unet" / "config.json").read_text())
    write_json(moved / "unet" / "config.json", config | {"_name_or_path": "elsewhere", "_diffusers_version": "9"})
    shutil.copy(prompts, other)
    assert len(detect(moved, other, "--end", "2").rows) == 2


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "scheduler"])
def test_every_part_counts(detect, folder, prompts, part):
    detect(folder, prompts)
    if part == "scheduler":
        path = folder / "scheduler" / "scheduler_config.json"
        write_json(path, json.loads(path.read_text()) | {"beta_end": 0.013})
        assert "scheduler beta_end 0.012 -> beta_end 0.013" in detect(folder, prompts)
        return
    path = next(
        p for p in (folder / part).iterdir() if p.suffix in (".safetensors", ".txt") or p.name == "tokenizer.json"
    )
    data = bytearray(path.read_bytes())
    data[-1 if part != "tokenizer" else data.index(b"w")] ^= 1
    path.unlink()
    path.write_bytes(data)
    assert "of model_id has changed since" in detect(folder, prompts)


def test_what_decides_nothing_does_not_count(detect, folder, prompts):
    detect(folder, prompts)
    (folder / "README.md").write_text("new")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_text("new")
    assert detect(folder, prompts).rows


def test_another_unet_counts_by_its_own_content(detect, folder, prompts, tmp_path):
    unet = tmp_path / "unet"
    shutil.copytree(folder / "unet", unet)
    detect(folder, prompts, "--unet_id", unet)
    halve_last_layer(folder)  # not the one that is used
    assert detect(folder, prompts, "--unet_id", unet).rows
    halve_last_layer(tmp_path)
    assert "of unet_id has changed since" in detect(folder, prompts, "--unet_id", unet)


def test_prompts_that_were_changed_are_others(detect, folder, prompts):
    detect(folder, prompts)
    prompts.write_text(prompts.read_text().replace("red", "green"))
    assert "the data set" in detect(folder, prompts) and "of dataset has changed since" in detect(folder, prompts)


def test_pictures_of_a_data_set_count(tmp_path, loaded, capsys):
    truth = tmp_path / "set_groundtruth"
    shutil.copytree(PLANTED / "planted_mem_groundtruth", truth)
    for path in truth.glob("*.jsonl"):
        path.rename(truth / path.name.replace("planted_mem_groundtruth", "set_groundtruth"))
    argv = ["--dataset", str(truth), "--end", "1", *COMMON[:4], "--output_dir", str(tmp_path / "out")]
    inference_mem.main(argv, loaded)
    (truth / "notes.md").write_text("seen")
    inference_mem.main(argv, loaded)
    pictures = sorted((truth / "gt_images").rglob("*.png"))
    shutil.copy(pictures[-1], pictures[0])
    with pytest.raises(SystemExit):
        inference_mem.main(argv, loaded)
    assert "of dataset has changed since" in capsys.readouterr().err


def test_a_file_of_masks_that_was_changed_is_another(detect, folder, prompts, tmp_path):
    detect(folder, prompts, "--run_name", "one")
    detect(folder, prompts, "--run_name", "two", "--gen_seed", "0")
    masks = tmp_path / "masks.npz"
    shutil.copy(tmp_path / "out" / "attn_data" / "one_ours_attention_scores.npz", masks)
    with_masks = ("--run_name", "three", "--attn_scores")
    detect(folder, prompts, *with_masks, masks)
    copy = tmp_path / "copy.npz"
    shutil.copy(masks, copy)
    assert detect(folder, prompts, *with_masks, copy).rows  # the same content
    copy.write_bytes(copy.read_bytes()[:-1] + b"\x01")
    assert "attn_scores" in detect(folder, prompts, *with_masks, copy)


def test_masks_and_thresholds_of_the_weights_before_are_refused(detect, folder, prompts, tmp_path):
    old = detect(folder, prompts, "--run_name", "old")
    masks = tmp_path / "out" / "attn_data" / "old_ours_attention_scores.npz"
    settings = dict(old.settings)
    threshold = Threshold("text_noise_norm", 1, 1.0, 0.1, 10, 1, settings)
    halve_last_layer(folder)
    assert "masks in" in detect(folder, prompts, "--run_name", "x", "--attn_scores", masks)
    new = detect(folder, prompts, "--run_name", "new")
    with pytest.raises(InputError, match=r"cannot be compared: model_id is '.*' \(content \w+\) and '.*' \(content"):
        check_same_model([old, new])
    with pytest.raises(InputError, match=r"calibrated with model_id '.*' \(content"):
        threshold.refuse_other_run(new.settings, "t.json")
    threshold.refuse_other_run(old.settings, "t.json")
    with pytest.raises(InputError, match=r"are of model_id '.*' \(content"):
        load_masks(masks, new)
    assert load_masks(masks, old)


def test_a_run_that_kept_no_contents_goes_on_with_a_warning(detect, folder, prompts, tmp_path, capsys):
    detect(folder, prompts, "--end", "1")
    path = tmp_path / "out" / "det_outputs" / "test_ours.config.json"
    record = json.loads(path.read_text())
    former = {k: v for k, v in record["settings"].items() if k not in ("content", "scheduler")}
    path.write_text(json.dumps(record | {"settings": former}))
    run = detect(folder, prompts, "--end", "2")
    assert len(run.rows) == 2
    assert "whether the model and the files have changed is not known" in capsys.readouterr().err
    other = model_copy(tmp_path / "other", folder)
    assert "was made with other settings (model_id" in detect(other, prompts)


def test_rows_of_a_scheduler_that_was_read_wrong_do_not_go_on(detect, model_folder, prompts, tmp_path):
    euler = {"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012}
    folder = model_copy(tmp_path / "m", model_folder, scheduler=euler | {"beta_schedule": "scaled_linear"})
    detect(folder, prompts, "--end", "1")
    path = tmp_path / "out" / "det_outputs" / "test_ours.config.json"
    record = json.loads(path.read_text())
    former = {k: v for k, v in record["settings"].items() if k not in ("content", "scheduler")}
    path.write_text(json.dumps(record | {"settings": former}))
    assert "its scheduler gave other values then" in detect(folder, prompts)


def test_a_pipeline_that_was_changed_in_memory_is_another(tmp_path, model_folder, prompts, capsys):
    pipe = load_pipeline(model_folder)
    options = dict(dataset=str(prompts), num_images_per_prompt=1, num_inference_steps=2, output_dir=tmp_path)
    detect_mem.run(pipe, **options)
    pipe.unet.conv_out.weight.mul_(0.5)
    with pytest.raises(InputError, match="of model_id has changed since"):
        detect_mem.run(pipe, **options)


def test_the_bundled_model_keeps_its_name_and_says_its_content(tmp_path, prompts):
    argv = ["--dataset", str(prompts), "--end", "1", *COMMON[:2], "--num_inference_steps", "1"]
    detect_mem.main([*argv, "--output_dir", str(tmp_path)])
    settings = read_run(tmp_path / "det_outputs" / "test_ours.jsonl").settings
    assert settings["model_id"] == MODEL.name and settings["content"]["model_id"].startswith("files:")
    assert settings["scheduler"]["beta_end"] == 0.012 and settings["content"]["dataset"].startswith("files:")
