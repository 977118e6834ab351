"""What runs do with models of other families: the screen, offloaded too, and masks of another kind of attention."""

import json

import numpy as np
import pytest
import torch

import detect_mem
from helpers.offloads import offloaded
from helpers.other_pipelines import make_flux, make_sd3, make_sdxl
from helpers.pipelines import make_pipeline
from memorization.detectors.base import DETECTORS
from memorization.errors import InputError
from memorization.models.encoding import count_truncated, encode_batch
from memorization.models.stable_diffusion import attach_base, load_pipeline
from memorization.needs import undefined_needs, why_undefined

FAMILIES = {"sd": make_pipeline, "sdxl": make_sdxl, "sd3": lambda: make_sd3(has_t5=True), "flux": make_flux}
OF_VELOCITY = {"noise_diff_map", "tuned_minus_base", "condition_jacobian", "curvature_diff", "tiled_l2"}
IMAGE = {"sd": 32}  # height in pixels, of the others 8


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param]().save_pretrained(folder)
    return request.param, folder


@pytest.fixture
def detect(model, tmp_path):
    """Run detect_mem.py on four captions at shared noise; gives the run."""
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"caption": f"the wild owl{' poster' * k}"}) + "\n" for k in range(4)))
    how = {"dataset": str(captions), "output_dir": tmp_path, "model_id": str(model[1]), "guidance_scale": 2.0}
    how |= {"num_images_per_prompt": 2, "seed_mode": "shared", "image_length": IMAGE.get(model[0], 8), "batch_size": 3}
    return lambda pipe, **options: detect_mem.run(pipe, **how | options)


def magnitudes(run):
    return np.array([row["text_noise_norm"] for row in run.rows], float).reshape(4, 2)


def test_a_screen_gives_the_d_of_an_early_exit(model, detect):
    pipe = load_pipeline(model[1])
    before = pipe.num_unet_evals
    found = magnitudes(detect(pipe, screen=True, shard_size=3))
    assert pipe.num_unet_evals == before + 2 + 4 * 2
    pipe.set_guidance(50.0)  # a run tells a distilled model its own
    early = detect(pipe, early_exit=1, run_version="baseline")
    np.testing.assert_allclose(found, magnitudes(early), rtol=1e-4)
    own = detect(pipe, early_exit=1, run_version="baseline", seed_mode="per_image", run_name="own", end=1)
    np.testing.assert_allclose(own.rows[0]["text_noise_norm"], early.rows[0]["text_noise_norm"], rtol=1e-4)
    other = detect(pipe, screen=True, shard_size=3, guidance_scale=9.0, run_name="other")
    assert np.allclose(magnitudes(other), found, rtol=1e-6) == (model[0] != "flux")


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_an_offloaded_screen_gives_the_same(model, detect, offload):
    whole = detect(load_pipeline(model[1]), screen=True)
    moved = detect(offloaded(load_pipeline(model[1]), offload), screen=True, run_name="moved")
    assert (magnitudes(whole) == magnitudes(moved)).all()


def test_encoding_for_a_screen_frees_the_place_of_the_denoiser(model, monkeypatch):
    pipe, freed = load_pipeline(model[1]), []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(True))
    encode_batch(pipe, ["the wild owl", "a car"])
    assert freed == [True]


def test_prompts_are_cut_off_where_the_encoder_that_reads_furthest_ends(model):
    pipe = load_pipeline(model[1])
    words = ["owl " * n for n in (70, 100, 300, 600)]
    cut = {"sd": 3, "sdxl": 3, "sd3": 2, "flux": 1}[model[0]]
    assert count_truncated(pipe, words) == sum(bool(pipe.truncated_text(text)) for text in words) == cut


@pytest.mark.parametrize("model", ["sd3", "flux"], indirect=True)
def test_masks_in_the_original_layout_are_of_a_unet(model, detect, tmp_path):
    np.savez(tmp_path / "masks.npz", attention_scores=np.zeros((4, 2, 1, 16, 77), np.float32))
    with pytest.raises(InputError, match="masks.npz, in the original's layout, is not defined for .*, whose attention"):
        detect(load_pipeline(model[1]), attn_scores=tmp_path / "masks.npz")


def test_pooled_features_are_encoded_with_the_tokens(model):
    pipe = load_pipeline(model[1])
    words = ["the wild owl", "a small red car", "the wild owl"]
    torch.testing.assert_close(encode_batch(pipe, words), pipe.encode(words)[0], rtol=1e-4, atol=1e-5)


def test_every_score_that_is_defined_is_a_finite_number_of_each_image(model, detect):
    pipe = load_pipeline(model[1])
    attach_base(pipe, load_pipeline(model[1]))
    (row,) = detect(pipe, scores="all", num_inference_steps=5, end=1).rows
    lacking = undefined_needs(pipe)
    defined = [d for d in DETECTORS.values() if why_undefined(d.needs, lacking) is None]
    for key in {key for d in defined for key in d.kept or d.keys} | {"text_noise_norm_masked"}:
        values = np.array(row[key], float)
        assert len(values) == 2 and np.isfinite(values).all(), key
    chosen = {d.name for d in defined if not d.always}
    if model[0] in ("sd3", "flux"):
        assert chosen == OF_VELOCITY
    else:
        assert chosen == {d.name for d in DETECTORS.values() if not d.always}


def test_a_tuned_model_less_its_base_is_the_difference_of_two_runs(model, detect):
    tuned, base = load_pipeline(model[1]), load_pipeline(model[1])
    for weight in tuned.denoiser.parameters():
        weight.data *= 1.1
    how = {"early_exit": 1, "run_version": "baseline"}
    apart = [magnitudes(detect(pipe, run_name=name, **how)) for name, pipe in (("tuned", tuned), ("base", base))]
    attach_base(tuned, base)
    rows = detect(tuned, run_name="both", scores="tuned_minus_base", **how).rows
    found = np.array([row["tuned_minus_base"] for row in rows], float).reshape(4, 2)
    assert np.abs(found).min() > 0
    np.testing.assert_allclose(found, apart[0] - apart[1], rtol=1e-3, atol=1e-5)
