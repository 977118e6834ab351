"""First steps that show nothing, or are not noisy: said or refused before the work."""

import json

import pytest

import detect_mem
import inference_mem
import memorization
from helpers.models import model_copy
from memorization.bundled import MODEL, PLANTED
from memorization.errors import InputError
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.first_step import look_at_first_step

ZERO_SNR = json.loads((MODEL / "scheduler" / "scheduler_config.json").read_text()) | {
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
}  # fmt: skip
PROMPTS, TRUTH = str(PLANTED / "planted_memorized.jsonl"), str(PLANTED / "planted_mem_groundtruth")
COMMON = ("--end", "1", "--num_images_per_prompt", "1", "--num_inference_steps", "3")


@pytest.fixture(scope="module")
def zero_snr(model_folder, tmp_path_factory):
    return load_pipeline(model_copy(tmp_path_factory.mktemp("zero") / "m", model_folder, scheduler=ZERO_SNR))


def test_detection_says_that_the_first_step_is_blind(zero_snr, tmp_path, capsys):
    detect_mem.main(["--dataset", PROMPTS, *COMMON, "--output_dir", str(tmp_path)], zero_snr)
    row = json.loads((tmp_path / "det_outputs" / "test_ours.jsonl").read_text())
    assert row["text_noise_norm"][0][0] == 0 and row["text_noise_norm"][0][1] > 0
    told = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(told) == 1 and "D(1) is 0 for every prompt by construction" in told[0]


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (detect_mem, ["--scores", "sharpness"]),
        (detect_mem, ["--scores", "anisotropy"]),
        (detect_mem, ["--run_version", "baseline", "--early_exit", "1"]),
        (inference_mem, ["--optim_target_loss", "1"]),
        (inference_mem, ["--l_target_ss", "1"]),
        (inference_mem, ["--method", "prss", "--strength", "1"]),
        (inference_mem, ["--method", "sail", "--strength", "2"]),
        (inference_mem, ["--method", "init_noise", "--strength", "1"]),
    ],
)
def test_what_looks_at_a_blind_step_is_refused_before_the_work(zero_snr, tmp_path, capsys, script, options):
    before = zero_snr.num_unet_evals
    data = PROMPTS if script is detect_mem else TRUTH
    with pytest.raises(SystemExit) as stop:
        script.main(["--dataset", data, *COMMON, *options, "--output_dir", str(tmp_path)], zero_snr)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "zero terminal SNR" in error and error.count("\n") == 1
    assert zero_snr.num_unet_evals == before


def test_what_does_not_look_at_it_runs(zero_snr, tmp_path, capsys):
    argv = ["--dataset", TRUTH, *COMMON, "--output_dir", str(tmp_path), "--prompt_aug_style", "rand_word_add"]
    inference_mem.main(argv, zero_snr)
    assert "magnitude_before and magnitude_after are of the first step, which is 0" in capsys.readouterr().err
    scores = ["--scores", "broken_memories,token_significance"]
    detect_mem.main(["--dataset", PROMPTS, *COMMON, "--output_dir", str(tmp_path), *scores], zero_snr)
    row = json.loads((tmp_path / "det_outputs" / "test_ours.jsonl").read_text())  # all of it finite, or there is no row
    assert row["x0_norm"][0][0] > 0 and row["token_significance_words"][0] > 0


def test_the_functions_refuse_the_same(zero_snr, pipe):
    for call in (
        lambda: memorization.detect(zero_snr, "an owl", early_exit=1, num_inference_steps=3),
        lambda: memorization.detect(zero_snr, "an owl", scores="sharpness", num_inference_steps=3),
        lambda: memorization.mitigate(zero_snr, "an owl", "pe", 1, num_inference_steps=3),
        lambda: memorization.mitigate(zero_snr, "an owl", "sail", 1, num_inference_steps=3),
    ):
        with pytest.raises(InputError, match="zero terminal SNR"):
            call()
    with pytest.raises(InputError, match="start at timestep 1000"):
        memorization.detect(pipe, "an owl", num_inference_steps=1000)
    memorization.mitigate(zero_snr, "an owl", "pe", 0, num_inference_steps=2)


@pytest.mark.parametrize(("num_steps", "first"), [(1, 1), (5, 801), (10, None), (999, None), (600, 600)])
def test_a_first_step_that_is_not_noisy_is_said(loaded, capsys, num_steps, first):
    assert look_at_first_step(loaded, num_steps) is False
    out = capsys.readouterr().err
    assert (f"start at timestep {first} of 1000, which is far from noise" in out) == (first is not None)
    assert out.count("warning") == (first is not None)


@pytest.mark.parametrize("num_steps", [1000, 2000])
def test_numbers_of_steps_that_cannot_be_end_in_one_line(loaded, tmp_path, capsys, num_steps):
    argv = ["--dataset", PROMPTS, "--end", "1", "--num_inference_steps", str(num_steps), "--output_dir", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        detect_mem.main(argv, loaded)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "use fewer --num_inference_steps" in error and error.count("\n") == 1
