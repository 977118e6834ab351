"""D of a tuned model less its base's: the difference of two runs, and refused where it cannot be."""

import json

import numpy as np
import pytest
import torch

import detect_mem
import memorization
from helpers.pipelines import make_pipeline
from memorization import InputError
from memorization.models.stable_diffusion import attach_base, load_pipeline

FEW = {"num_inference_steps": 2, "gen_seed": 5, "num_images_per_prompt": 2}
PROMPTS = ["the golden owl mug", "a large red heart"]
NAME = "tuned_minus_base"


@pytest.fixture(scope="module")
def tuned_folder(model_folder, tmp_path_factory):
    """The tiny model with another UNet and another text encoder, saved."""
    pipe, folder = load_pipeline(model_folder), tmp_path_factory.mktemp("tuned")
    for part in (pipe.unet, pipe.text_encoder):
        for weight in part.parameters():
            weight.data *= 1.1
    pipe.save_pretrained(folder)
    return folder


def test_it_is_the_difference_of_two_runs_and_counts_its_evaluations(model_folder, tuned_folder):
    tuned, base = load_pipeline(tuned_folder), load_pipeline(model_folder)
    apart = [memorization.detect(pipe, PROMPTS, **FEW) for pipe in (tuned, base)]
    attach_base(tuned, base)
    before = tuned.num_unet_evals
    together = memorization.detect(tuned, PROMPTS, scores=NAME, early_exit=1, **FEW)
    assert tuned.num_unet_evals - before == 4 * 4  # four images, a step of each model
    for one, own, other in zip(together, *apart, strict=True):
        difference = own.scores["text_noise_norm"][:, 0] - other.scores["text_noise_norm"][:, 0]
        np.testing.assert_allclose(one.scores[NAME], difference, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one.scores["base_noise_norm"], other.scores["text_noise_norm"][:, 0], rtol=1e-4)


def test_a_model_is_its_own_base_and_a_batch_does_not_matter(tuned_folder):
    pipe = load_pipeline(tuned_folder)
    attach_base(pipe, load_pipeline(tuned_folder))
    whole, pieces = (memorization.detect(pipe, PROMPTS, scores=NAME, batch_size=b, **FEW) for b in (4, 1))
    for one, other in zip(whole, pieces, strict=True):
        assert np.abs(one.scores[NAME]).max() == 0
        np.testing.assert_allclose(one.scores["base_noise_norm"], other.scores["base_noise_norm"], rtol=1e-4)


def test_the_script_says_which_model_is_which_and_is_tied_to_both(model_folder, tuned_folder, tmp_path, capsys):
    argv = ["--model_id", tuned_folder, "--base_model_id", model_folder, "--scores", NAME, "--end", 1]
    argv += ["--num_inference_steps", 2, "--num_images_per_prompt", 1, "--output_dir", tmp_path]
    detect_mem.main([str(word) for word in argv])
    rows = tmp_path / "det_outputs" / "test_ours.jsonl"
    (row,) = [json.loads(line) for line in rows.read_text().splitlines()]
    assert row[NAME][0] == pytest.approx(row["text_noise_norm"][0][0] - row["base_noise_norm"][0], abs=1e-4)
    settings = memorization.read_run(rows).settings
    assert (settings["model_id"], settings["base_model_id"]) == (str(tuned_folder), str(model_folder))
    assert {"model_id", "base_model_id"} <= settings["content"].keys()
    with pytest.raises(SystemExit):
        detect_mem.main([str(word) for word in (*argv, "--base_model_id", "own")])
    assert "base_model_id" in capsys.readouterr().err


def test_without_a_base_or_with_one_of_another_kind_it_is_refused(model_folder):
    pipe = load_pipeline(model_folder)
    with pytest.raises(InputError, match="give it by --base_model_id"):
        memorization.detect(pipe, PROMPTS, scores=NAME, **FEW)
    assert NAME not in memorization.detect(pipe, PROMPTS[0], scores="all", num_inference_steps=3)[0].scores
    with pytest.raises(ValueError, match="is no base of"):
        attach_base(pipe, make_pipeline("v_prediction"))
    assert pipe.base is None and torch.is_grad_enabled()
