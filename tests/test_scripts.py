"""Both scripts as users run them: the documented command lines, resume, refusals, bad input."""

import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

import detect_mem
import inference_mem
from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from memorization.seeds import image_seed

SCRIPTS = {"detect_mem.py": detect_mem.main, "inference_mem.py": inference_mem.main}


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def script(tmp_path, model_folder):
    """Run a command line in this process on the tiny model, with few steps and a temporary output folder."""

    def run(line, end=2, model=model_folder, steps=2):
        name, *argv = shlex.split(line)
        extra = ["--output_dir", str(tmp_path), "--num_inference_steps", str(steps), "--model_id", str(model)]
        SCRIPTS[name]([*argv, *extra, *(["--end", str(end)] if end else [])])
        return tmp_path

    return run


def rows(folder, name):
    return [json.loads(line) for line in (folder / "det_outputs" / f"{name}.jsonl").read_text().splitlines()]


def refused(capsys, call):
    """Run something that must end in one line and exit code 2; returns the line."""
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return [line for line in error.splitlines() if "error: " in line][-1]


DETECT = (
    "detect_mem.py --run_name memorized_prompts --run_version {} --dataset examples/planted_memorized.jsonl"
    " --gen_seed 0 --num_images_per_prompt 16"
)
INFERENCE = (
    "inference_mem.py --run_name {0} --run_version {0} --dataset planted_mem_groundtruth --gen_seed 0"
    " --reference_model no-such-model --with_tracking --num_images_per_prompt 1 --optim_target_steps 0 {1}"
)
PRSS = "--l_target_pr 3 --mag_thres_pr 5 --l_target_ss 1"


def test_the_documented_command_lines_run_one_after_another(script):
    for version in ("baseline", "ours"):
        folder = script(DETECT.format(version), end=1)
    for version in ("baseline", "ours_A"):
        for options in ("--optim_target_loss 1", PRSS):
            script(INFERENCE.format(version, options), end=1)
    (row,) = rows(folder, "memorized_prompts_ours")
    for key in ("uncond_noise_norm", "text_noise_norm", "text_noise_norm_masked"):
        assert np.shape(row[key]) == (16, 2)
    made = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert made >= {
        "attn_data/memorized_prompts_baseline_attention_scores.npz",
        "attn_data/mit_attn_scores.npz",
        "det_outputs/memorized_prompts_baseline.jsonl",
        "images_data/memorized_prompts_ours_generated_images.npz",
        "images_data/baseline_generated_images.npz",
        "images_data/baseline_pe_generated_images.npz",
        "images_data/baseline_prss_generated_images.npz",
        "images_data/ours_A_prss_be_generated_images.npz",
        f"images_data/memorized_prompts_ours/0_{image_seed(0, 0, 15)}.png",
        "det_outputs/ours_A_pe_be_mitigation.tracking.jsonl",
    }
    with np.load(folder / "images_data/memorized_prompts_ours_generated_images.npz") as file:
        png = Image.open(folder / "images_data/memorized_prompts_ours" / f"0_{image_seed(0, 0, 3)}.png")
        assert np.array_equal(file["images"][3], np.asarray(png)) and len(file["images"]) == 16


def test_two_passes_from_either_layout_equal_one_pass(script):
    one = "detect_mem.py --num_images_per_prompt 2 --dataset examples/planted_memorized.jsonl"
    folder = script(f"{one} --run_name one")
    script(f"{one} --run_name all --run_version baseline --store_all_tokens")
    for run, masks in (("two", "one_ours"), ("old", "all_baseline")):
        script(f"{one} --run_name {run} --attn_scores {folder}/attn_data/{masks}_attention_scores.npz")
        for a, b in zip(rows(folder, "one_ours"), rows(folder, f"{run}_ours"), strict=True):
            assert np.allclose(a["text_noise_norm_masked"], b["text_noise_norm_masked"], rtol=2e-3)
            assert a["text_noise_norm"] == b["text_noise_norm"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("detect_mem.py --num_images_per_prompt 2 --batch_size 2", "test_ours"),
        (f"inference_mem.py --run_version ours_A {PRSS}", "test_prss_be_mitigation"),
    ],
    ids=["detect", "inference"],
)
def test_a_cut_off_run_goes_on_to_the_same_rows(script, line, name, tmp_path):
    script(line, end=3)
    path = tmp_path / "det_outputs" / f"{name}.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) * 3 // 4])
    script(line, end=3)
    assert path.read_text() == whole
    before = path.stat().st_mtime_ns
    script(line, end=3)
    assert path.stat().st_mtime_ns == before or path.read_text() == whole


def test_other_settings_under_the_same_name_are_refused(script, capsys):
    script("detect_mem.py --num_images_per_prompt 1", end=1)
    again = "detect_mem.py --num_images_per_prompt 1 --gen_seed 5"
    line = refused(capsys, lambda: script(again, end=1))
    assert "gen_seed 0 -> 5" in line and "--overwrite" in line
    folder = script(f"{again} --overwrite", end=1)
    assert rows(folder, "test_ours")[0]["seeds"] == [image_seed(5, 0, 0)]


def test_masks_are_kept_by_prompt_and_seed_and_others_refused(script, capsys, tmp_path):
    line = f"inference_mem.py --run_version ours_A {PRSS}"
    script(line, end=1)
    script(f"{line} --run_name more", end=2)
    with np.load(tmp_path / "attn_data/mit_attn_scores.npz") as file:
        assert file["index"].tolist() == [0, 1]
    masks = tmp_path / "attn_data/mit_attn_scores.npz"
    told = refused(capsys, lambda: script(f"{line} --run_name r --attn_scores {masks} --gen_seed 1", end=1))
    assert "no mask of prompt 0 at this run's seeds" in told
    told = refused(capsys, lambda: script(f"{line} --run_name r --dataset examples/planted_near_miss.jsonl", end=1))
    assert "index 0 are of the prompt" in told
    told = refused(capsys, lambda: script(f"{line} --run_name r --attn_scores {masks}", end=1, steps=3))
    assert "num_inference_steps 2, this run's is 3" in told
    np.savez(tmp_path / "wrong.npz", attention_scores=np.zeros((1, 2, 3, 16, 77)))
    told = refused(capsys, lambda: script(f"{line} --run_name r --attn_scores {tmp_path}/wrong.npz", end=1))
    assert "exactly 1 images" in told


BAD_INPUT = {
    "inference_mem.py --l_target_pr 3 --mag_thres_pr 3 --l_target_ss 1": "must exceed",
    "inference_mem.py --l_target_pr 3 --mag_thres_pr 5": "needs a modified prompt",
    "inference_mem.py --optim_target_steps 4": "must be 0",
    "inference_mem.py --pr_mask": "--pr_mask restricts",
    "inference_mem.py --prompt_aug_style rand_numb_add --l_target_ss 1": "do not combine",
    "detect_mem.py --start 2": "must be smaller than --end 2",
    "detect_mem.py --dataset nothing.jsonl": "does not exist",
    "detect_mem.py --attn_scores nothing.npz": "does not exist",
    "detect_mem.py --run_version baseline --attn_scores some.npz": "not used by --run_version baseline",
    "inference_mem.py --l_target_ss 1 --attn_scores some.npz": "add --run_version ours_A",
    "inference_mem.py --run_version ours_A --attn_scores some.npz": "add --run_version ours_A with PE or SS",
    "detect_mem.py --image_length 33": "not a multiple",
    "detect_mem.py --unet_id nowhere": "cannot load a UNet from nowhere",
    "detect_mem.py --num_images_per_prompt 0": "not at least 1",
    "detect_mem.py --run_version ours_A": "invalid choice",
    "detect_mem.py --store_img_png maybe": "takes true or false",
}


@pytest.mark.parametrize(("line", "message"), BAD_INPUT.items(), ids=BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(script, capsys, line, message):
    assert message in refused(capsys, lambda: script(line))


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "has no model_index.json"),
        ('{"_class_name": "StableDiffusionXLPipeline"}', "is no folder of Stable Diffusion 1, 2, XL, 3 or Flux.1"),
        ("{", "is no folder of Stable Diffusion 1, 2, XL, 3 or Flux.1"),
    ],
)
def test_a_folder_that_is_no_model_is_refused(script, capsys, tmp_path, index, message):
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    assert message in refused(capsys, lambda: script("detect_mem.py", model=tmp_path))
    assert "does not exist" in refused(capsys, lambda: script("detect_mem.py", model="./no/model"))


def test_an_output_folder_that_cannot_be_written_is_refused(script, capsys, tmp_path):
    (tmp_path / "images_data").write_text("a file where a folder should be")
    assert "cannot write to" in refused(capsys, lambda: script("detect_mem.py"))


def test_a_prompt_that_is_too_long_is_measured_at_its_true_end_token(script, capsys, tmp_path):
    long = "golden owl " * 60 + "mug"
    (tmp_path / "long.jsonl").write_text(json.dumps({"caption": long}) + "\n")
    script(f"detect_mem.py --dataset {tmp_path}/long.jsonl --num_images_per_prompt 1")
    told = capsys.readouterr().out
    assert "prompt 0 is longer than the model reads; cut off" in told and "owl mug'" in told


def test_half_precision_on_the_cpu_runs_or_is_refused_in_one_line(script, capsys):
    try:
        folder = script("detect_mem.py --dtype float16 --num_images_per_prompt 1", end=1)
        assert np.isfinite(rows(folder, "test_ours")[0]["text_noise_norm_masked"]).all()
    except SystemExit as stop:
        assert stop.code == 2 and "use --dtype float32" in capsys.readouterr().err


def test_outputs_can_be_switched_off(script, tmp_path):
    script("detect_mem.py --no-store_img_png --store_img_npz False --no-store_attn_npz --num_images_per_prompt 1")
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"test_ours.jsonl", "test_ours.config.json"}


def test_every_kind_of_data_set_runs(script, tmp_path):
    Image.new("RGB", (32, 32), (9, 9, 200)).save(tmp_path / "000.png")
    (tmp_path / "000.txt").write_text("a blue square")
    for name, dataset in (("random", "random"), ("pairs", tmp_path)):
        script(f"detect_mem.py --dataset {dataset} --run_name {name} --num_images_per_prompt 1", end=2)
    assert len(rows(tmp_path, "random_ours")) == 2
    script(f"inference_mem.py --dataset {tmp_path} --run_name pairs --prompt_aug_style rand_word_add --repeat_num 2")
    (row,) = rows(tmp_path, "pairs_rt2_mitigation")
    assert len(row["prompt_used"].split()) == 5 and 0 < row["pixel_similarity"][0] < 1


def test_original_seed_mode_is_recorded_and_differs(script, tmp_path):
    for mode in ("per_image", "original"):
        script(f"detect_mem.py --run_name {mode} --seed_mode {mode} --num_images_per_prompt 2", end=1)
    a, b = (rows(tmp_path, f"{m}_ours")[0]["text_noise_norm"] for m in ("per_image", "original"))
    assert not np.allclose(a, b)


def test_clip_similarity_from_a_local_checkpoint(script, tmp_path):
    """The path that ViT-g-14 takes, on a model small enough to make here."""
    import open_clip

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    (tmp_path / "tiny-clip.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    torch.save(open_clip.create_model("tiny-clip").state_dict(), tmp_path / "tiny.pt")
    clip = f"--reference_model tiny-clip --reference_model_pretrain {tmp_path}/tiny.pt --with_tracking"
    script(f"inference_mem.py --num_images_per_prompt 2 {clip}", end=1)
    (row,) = rows(tmp_path, "test_none_mitigation.similarity")
    assert len(row["clip"]) == 2 and all(-1 <= v <= 1 for v in row["clip"])


def test_switches():
    for text, value in (("", True), ("True", True), ("false", False)):
        line = ["--with_tracking", *([text] if text else [])]
        assert detect_mem.make_parser().parse_args(line).with_tracking is value
    assert detect_mem.make_parser().parse_args(["--no-store_img_png"]).store_img_png is False


def test_bundled_prompt_files_agree_with_the_world_they_come_from():
    planted, unseen, near = (
        load_prompts(str(PLANTED / f"planted_{n}.jsonl")) for n in ("memorized", "nonmemorized", "near_miss")
    )
    kinds = [r.kind for r in planted]
    assert kinds.count("verbatim") >= 16 and kinds.count("template") >= 16
    assert all(len(r.alternatives) == 10 for r in planted)
    texts = {r.prompt for r in planted}
    assert not texts & {r.prompt for r in (*unseen, *near)}
    for record in load_prompts(str(PLANTED / "planted_mem_groundtruth")):
        mask = np.asarray(Image.open(record.mask_path)) > 127
        assert mask.all() == (record.kind == "verbatim") and mask.mean() > 0.2
        first, *others = [np.asarray(Image.open(p)) for p in record.reference_images]
        assert all(np.abs(first.astype(int) - o)[mask].max() <= 2 for o in others)
