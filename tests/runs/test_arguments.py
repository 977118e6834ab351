"""Command lines: switches, ranges, defaults, combinations that mean nothing, and the settings made of them."""

import json
from dataclasses import FrozenInstanceError

import pytest

import detect_mem
import inference_mem
from memorization.bundled import MODEL, PLANTED
from memorization.errors import InputError
from memorization.mitigations.options import method_label, strength_of_settings
from memorization.runs.detection import DetectionSettings
from memorization.runs.mitigation_settings import MitigationSettings


def parse(line, script=detect_mem):
    return script.make_parser().parse_args(line.split())


@pytest.mark.parametrize(
    ("line", "value"),
    [("", True), ("--store_img_png", True), ("--no-store_img_png", False)]
    + [(f"--store_img_png {w}", True) for w in ("True", "true", "yes", "1")]
    + [(f"--store_img_png {w}", False) for w in ("False", "FALSE", "no", "0")]
    + [("--store_img_png=False", False), ("--store_img_png --run_name x", True)],
)
def test_every_form_of_a_switch(line, value):
    assert parse(line).store_img_png is value


@pytest.mark.parametrize(
    "line",
    ["--store_img_png maybe", "--no-store_img_png True", "--device banana", "--device cuda:", "--start -1",
     "--guidance_scale nan", "--guidance_scale inf", "--gen_seed -1", "--gen_seed 4294967296", "--batch_size 0",
     "--num_images_per_prompt 1001", "--num_inference_steps 0", "--image_length 0", "--seed_mode other"],
)  # fmt: skip
def test_values_out_of_range_exit_with_code_2(line):
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2


def test_defaults_are_the_originals():
    args = parse("")
    run = DetectionSettings.from_args(args).run
    found = (run.run_name, run.start, run.end, run.gen_seed, run.guidance_scale, run.num_inference_steps)
    assert found == ("test", 0, 500, 0, None, 50)  # 7.5 once the model is known
    assert args.store_attn_npz and args.store_img_npz and args.store_img_png
    args = parse("", inference_mem)
    assert (args.optim_lr, args.optim_iters, args.repeat_num) == (0.05, 10, 1)
    assert args.reference_model_pretrain == "laion2b_s12b_b42k" and args.optim_target_loss is None


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3", "mps"])
def test_devices(device):
    assert parse(f"--device {device}").device == device


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--l_target_pr 5 --mag_thres_pr 5 --l_target_ss 1", "must exceed"),
        ("--l_target_pr 5 --mag_thres_pr 3 --l_target_ss 1", "must exceed"),
        ("--l_target_pr 3 --l_target_ss 1", "go together"),
        ("--mag_thres_pr 3 --l_target_ss 1", "go together"),
        ("--l_target_pr 3 --mag_thres_pr 5", "needs a modified prompt"),
        ("--pr_mask", "restricts re-anchoring"),
        ("--optim_target_steps 3", "must be 0"),
    ],
)
def test_combinations_that_mean_nothing(line, message):
    with pytest.raises(InputError, match=message):
        MitigationSettings.from_args(parse(line, inference_mem))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("--reference_model ViT-g-14 --with_tracking --optim_target_steps 0 --optim_target_loss 1", "pe"),
        ("--l_target_pr 3 --mag_thres_pr 5 --l_target_ss 1", "prss"),
        ("--l_target_pr 3 --mag_thres_pr 5 --optim_target_loss 1", "pe_pr"),
        ("--l_target_ss 1 --run_version ours_A", "ss_be"),
    ],
)
def test_documented_combinations_pass_and_have_a_name(line, name):
    assert MitigationSettings.from_args(parse(line, inference_mem)).label == name


def test_settings_are_made_once_and_name_bundled_files_wherever_they_lie():
    settings = DetectionSettings.from_args(parse("--early_exit 1 --run_version baseline"))
    with pytest.raises(FrozenInstanceError):
        settings.run.gen_seed = 5
    assert not (settings.run.store_img_png or settings.run.store_img_npz or settings.store_attn_npz)
    identity = settings.run.identity
    assert (identity["model_id"], identity["dataset"]) == (MODEL.name, "planted_prompts.jsonl")
    given = parse(f"--model_id {PLANTED}/../planted/planted_sd --dataset planted/planted_prompts.jsonl")
    assert DetectionSettings.from_args(given).run.identity == identity


@pytest.mark.parametrize(
    ("line", "label", "strength"),
    [
        ("", "none", 0),
        ("--optim_target_loss 1.5", "pe", 1.5),
        ("--method pe --strength 1.5 --run_version ours_A", "pe_be", 1.5),
        ("--method prss --strength 0.8", "prss", 0.8),
        ("--l_target_ss 1 --l_target_pr 1 --mag_thres_pr 2 --pr_mask", "prss_prmask", 1),
        ("--l_target_ss 1 --optim_target_loss 0.8 --l_target_pr 1 --mag_thres_pr 2", "ss_pe_pr", 1),
        ("--method prss", "prss", 1),
        ("--method rt --strength 4", "rt", 4),
        ("--prompt_aug_style rand_numb_add --repeat_num 2", "rna", 2),
        ("--rand_noise_lam 0.6", "gni", 0.6),
        ("--method sail --strength 4", "sail", 4),
        ("--method sail --strength 4 --optim_target_loss 3", "sail", 4),
        ("--method pe --strength 0", "none", 0),
    ],
)
def test_a_run_knows_its_method_and_strength_from_its_settings(line, label, strength):
    """From what is kept beside the rows, as JSON gives it back: by flags and by name alike."""
    kept = json.loads(json.dumps(MitigationSettings.from_args(parse(line, inference_mem)).kept))
    assert (method_label(kept), strength_of_settings(kept)) == (label, strength)


def test_prss_by_name_has_the_released_ratio():
    settings = MitigationSettings.from_args(parse("--method prss", inference_mem))
    assert (settings.l_target_ss, settings.l_target_pr, settings.mag_thres_pr) == (1, 3, 5)
    settings = MitigationSettings.from_args(parse("--method prss --strength 0.2", inference_mem))
    assert (settings.l_target_ss, settings.l_target_pr, settings.mag_thres_pr) == pytest.approx((0.2, 0.6, 1.0))


def test_an_unknown_method_is_answered_with_the_nearest_known():
    with pytest.raises(InputError, match="--method has no 'sial'; did you mean sail"):
        MitigationSettings.from_args(parse("--method sial --strength 1", inference_mem))


@pytest.mark.parametrize("script", [detect_mem, inference_mem])
def test_tables_of_what_there_is(script, capsys):
    option = "--list_scores" if script is detect_mem else "--list_methods"
    with pytest.raises(SystemExit) as stop:
        script.make_parser().parse_args([option])
    told = capsys.readouterr().out
    assert stop.value.code == 0 and "| name " in told and ("sharpness" if script is detect_mem else "sail") in told
