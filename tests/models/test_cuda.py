"""On a GPU every family gives the numbers of the CPU, to the tolerances that are stated here; tiny random models.

In float32 sums are taken in another order. Half precision rounds each of the denoiser's outputs, and D is a small
difference of two of them: its error is stated as a share of the output's norm.
"""

import json

import numpy as np
import pytest
import torch

import detect_mem
import memorization
from helpers.other_pipelines import make_flux, make_sd3, make_sdxl
from helpers.pipelines import make_pipeline
from memorization.models.stable_diffusion import load_pipeline

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

FAMILIES = {"sd": make_pipeline, "sdxl": make_sdxl, "sd3": lambda: make_sd3(has_t5=True), "flux": make_flux}
PROMPTS = ["the wild owl poster", "a small red car"]
FEW = {"num_inference_steps": 4, "num_images_per_prompt": 3, "gen_seed": 7}
GRADIENTS = "condition_jacobian,curvature_diff"  # detectors that take them in every family
FLOAT32 = 1e-3  # of a number
HALF = {torch.float16: 0.002, torch.bfloat16: 0.01}  # of an output's norm
DEVICE = "cuda"


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param]().save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def plain_float32():
    """No TF32 in convolutions, which has the digits of half precision, and the same kernels every time."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield


def load(folder, device=DEVICE, dtype="float32", **how):
    """Loaded; Flux, whose transformer has no size of its own, for small images too."""
    pipe = load_pipeline(folder, device=device, dtype=dtype, **how)
    pipe.default_sample_size = 8
    return pipe


def test_float32_gives_the_latents_and_scores_of_the_cpu(folder):
    runs = [memorization.detect(load(folder, device), PROMPTS, scores=GRADIENTS, **FEW) for device in ("cpu", DEVICE)]
    for expected, found in zip(*runs, strict=True):
        a, b = expected.observation.latents, found.observation.latents
        torch.testing.assert_close(b.cpu(), a, rtol=FLOAT32, atol=FLOAT32 * a.abs().max().item())
        assert found.scores.keys() == expected.scores.keys() >= set(GRADIENTS.split(","))
        for name, values in expected.scores.items():
            np.testing.assert_allclose(found.scores[name], values, rtol=10 * FLOAT32, err_msg=name)
        np.testing.assert_allclose(found.scores["text_noise_norm"], expected.scores["text_noise_norm"], rtol=FLOAT32)
        np.testing.assert_allclose(found.mask, expected.mask, rtol=FLOAT32)
        assert np.abs(found.images.astype(int) - expected.images).max() <= 1


def test_half_precision_gives_the_d_of_the_first_step(folder):
    half = load(folder, dtype="auto")
    most = HALF[half.denoiser.dtype]
    runs = [memorization.detect(pipe, PROMPTS, **FEW) for pipe in (load(folder, "cpu"), half)]
    for expected, found in zip(*runs, strict=True):
        first, other = (run.scores["text_noise_norm"][:, 0] for run in (expected, found))
        assert (np.abs(other - first) <= most * expected.observation.uncond_norms[:, 0].numpy()).all()
        assert np.isfinite(found.scores["text_noise_norm"]).all() and found.images.std() > 0


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_it_gives_the_same_and_waits_on_the_cpu(folder, offload):
    whole, moved = load(folder), load(folder, offload=offload)
    runs = [memorization.detect(pipe, PROMPTS, scores=GRADIENTS, **FEW) for pipe in (whole, moved)]
    for expected, found in zip(*runs, strict=True):
        assert (found.images == expected.images).all()
        for name, values in expected.scores.items():
            assert (found.scores[name] == values).all(), name
    text, negative = moved.encode(PROMPTS[:1])
    assert moved.denoiser.device.type == moved.vae.device.type == ("cpu" if offload == "model" else "meta")
    latents = moved.generate(moved.initial_latents([1]), (negative, text), num_inference_steps=2)
    assert text.is_cuda and latents.is_cuda and not next(moved.text_encoder.parameters()).is_cuda
    with pytest.raises(ValueError, match="--offload .* and --compile do not go together"):
        load(folder, compile=True, offload=offload)


def test_gradients_in_chunks_are_those_of_all_images_at_once(folder):
    pipe = load(folder)
    runs = [memorization.detect(pipe, PROMPTS, scores=GRADIENTS, grad_batch_size=k, **FEW) for k in (6, 1, 2, None)]
    for expected, *others in zip(*runs, strict=True):
        for found in others:
            for name in GRADIENTS.split(","):
                np.testing.assert_allclose(found.scores[name], expected.scores[name], rtol=FLOAT32, err_msg=name)
    tuned = [memorization.mitigate(pipe, PROMPTS[0], "pe", 0.01, grad_batch_size=k, **FEW)[0] for k in (3, 1)]
    np.testing.assert_allclose(tuned[0].magnitude_after, tuned[1].magnitude_after, rtol=10 * FLOAT32)
    assert (np.array(tuned[1].magnitude_after) < tuned[1].magnitude_before).all()


@pytest.mark.parametrize("offload", ["none", "model", "sequential"])
def test_a_screen_gives_the_d_of_an_early_exit(folder, offload, tmp_path):
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps({"caption": prompt}) + "\n" for prompt in PROMPTS * 4))
    how = {"dataset": str(captions), "output_dir": tmp_path, "model_id": str(folder), "seed_mode": "shared"}
    how |= {"num_images_per_prompt": 2, "batch_size": 3}
    screen = detect_mem.run(load(folder, offload=offload), screen=True, shard_size=3, **how)
    early = detect_mem.run(load(folder), early_exit=1, run_version="baseline", **how)
    values = [np.array([row["text_noise_norm"] for row in run.rows]).reshape(8, 2) for run in (screen, early)]
    np.testing.assert_allclose(*values, rtol=FLOAT32)
