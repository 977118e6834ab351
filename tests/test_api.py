"""The library gives what the scripts write: the same numbers and the same images, in memory."""

import numpy as np
import pytest

import detect_mem
import inference_mem
import memorization
from memorization import DETECTORS, MITIGATIONS, InputError, detect, evaluate, load_prompts, mitigate, read_run

FEW = {"num_inference_steps": 2, "gen_seed": 5}
PROMPTS = {"dataset": "planted_mem_groundtruth", "end": 2}


def test_detect_gives_the_rows_masks_and_images_of_the_script(loaded, tmp_path):
    options = {"scores": "sharpness,tiled_l2", "num_images_per_prompt": 2, **FEW}
    run = detect_mem.run(loaded, output_dir=tmp_path, **PROMPTS, **options)
    found = detect(loaded, load_prompts("planted_mem_groundtruth", 0, 2), **options)
    for row, prompt in zip(run.rows, found, strict=True):
        assert (prompt.index, prompt.seeds) == (row["index"], row["seeds"])
        assert set(prompt.scores) <= row.keys() and {"text_noise_norm_masked", "sharpness"} < set(prompt.scores)
        for key, values in prompt.scores.items():
            assert np.array_equal(values, np.array(row[key], np.float32)), key
        assert np.array_equal(prompt.images, run.images(row)) and prompt.mask.shape == (2, 16, 16)
        assert prompt.score() == pytest.approx(np.mean([norms[0] for norms in row["text_noise_norm"]]))
    (early,) = detect(loaded, "a red heart", early_exit=1, **FEW)
    assert early.images is None and early.mask is None and early.scores["text_noise_norm"].shape == (1, 1)


@pytest.mark.parametrize(
    ("method", "strength", "masked"),
    [("pe", 0.1, False), ("prss", 0.05, True), ("rt", 3, False), ("neuron_off", 0.2, False), ("sail", 0, False)],
)
def test_mitigate_gives_the_images_of_the_script(loaded, tmp_path, method, strength, masked):
    version = "ours_A" if masked else "baseline"
    options = {"method": method, "strength": strength, "run_version": version, "num_images_per_prompt": 2}
    run = inference_mem.run(loaded, output_dir=tmp_path, **PROMPTS, **FEW, **options)
    records = load_prompts("planted_mem_groundtruth", 0, 2)
    found = mitigate(loaded, records, method, strength, use_mask=masked, num_images_per_prompt=2, **FEW)
    for row, prompt in zip(run.rows, found, strict=True):
        assert np.abs(prompt.images.astype(int) - run.images(row)).max() <= 1
        assert prompt.magnitude_before == pytest.approx(row["magnitude_before"], rel=2e-3)
        assert prompt.triggered == row["triggered"]
        assert prompt.unet_evals_per_image == row["unet_evals_per_image"]


def test_a_finished_run_is_read_and_evaluated(loaded, tmp_path):
    run = detect_mem.run(loaded, output_dir=tmp_path, start=30, end=34, num_images_per_prompt=1, **FEW)
    assert read_run(run.path).rows == run.rows
    section = evaluate("detection", run)
    assert "AUC per image" in section.markdown() and len(section.figures) >= 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: detect(pipe, []), "there are no prompts"),
        (lambda pipe: detect(pipe, "a", scores="sharpnes"), "did you mean sharpness"),
        (lambda pipe: detect(pipe, "a", early_exit=1, scores="hessian_map"), "needs the last step"),
        (lambda pipe: mitigate(pipe, "a", "sial", 1), "did you mean sail"),
        (lambda pipe: mitigate(pipe, "a", "sail", 11), "Adam steps on the starting noise, from 0 to 10, not 11"),
        (lambda pipe: mitigate(pipe, "a", "rt", 1, pr_mask=True), "rt has no variant prmask"),
        (lambda pipe: evaluate("detecton", []), "did you mean detection"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(loaded, call, message):
    with pytest.raises(InputError, match=message):
        call(loaded)


def test_an_option_that_there_is_not_is_named_with_the_nearest(loaded):
    with pytest.raises(TypeError, match="no option 'gen_sed'; did you mean gen_seed"):
        detect_mem.run(loaded, gen_sed=1)


def test_the_ten_names():
    assert set(memorization.__all__) == set(memorization.HOMES) and len(memorization.__all__) == 10
    assert len(DETECTORS) == 23 and len(MITIGATIONS) == 22
    with pytest.raises(AttributeError, match="its names are load_pipeline"):
        memorization.detekt  # noqa: B018
