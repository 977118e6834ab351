"""--offload: a model whose parts come to where they compute when they are called gives the same numbers.

On a GPU: test_cuda.py.
"""

import threading

import pytest
import torch

import detect_mem
import memorization
from helpers.offloads import offloaded
from helpers.other_pipelines import make_flux, make_sd3, make_sdxl
from helpers.pipelines import make_pipeline
from memorization.models.contents import pipeline_contents
from memorization.models.devices import is_offloaded
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.workers import BackgroundWriter

PROMPT, FEW = "the wild owl poster", {"num_inference_steps": 2, "num_images_per_prompt": 1, "grad_batch_size": 1}


FAMILIES = {
    "sd": (make_pipeline, "sharpness", "init_noise", 1),
    "sdxl": (make_sdxl, "sharpness", "init_noise", 1),
    "sd3": (lambda: make_sd3(has_t5=True), "condition_jacobian", "pe", 0.01),
    "flux": (make_flux, "condition_jacobian", "pe", 0.01),
}  # with a detector, and a mitigation with its strength, that take gradients


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    """A folder, and what it is measured by."""
    make, *methods = FAMILIES[request.param]
    path = tmp_path_factory.mktemp(request.param)
    make().save_pretrained(path)
    return path, *methods


@pytest.fixture
def folder(model):
    return model[0]


def load(folder, **how):
    """Loaded; Flux, whose transformer has no size of its own, for small images too."""
    pipe = load_pipeline(folder, **how)
    pipe.default_sample_size = 8
    return pipe


@pytest.fixture(params=["model", "sequential"])
def moved(request, folder):
    """Offloaded from the CPU to the CPU: the hooks are those of a GPU, and layers hold no weights until called."""
    return offloaded(load(folder), request.param)


def assert_equal_scores(found, expected):
    assert found.scores.keys() == expected.scores.keys() and found.scores
    for name, values in expected.scores.items():
        assert (found.scores[name] == values).all(), name


def test_images_scores_and_gradients_are_those_of_the_whole_model(model, moved):
    folder, score, method, strength = model
    plain = load(folder)
    assert is_offloaded(moved) and not is_offloaded(plain)
    (expected,), (found,) = (memorization.detect(p, PROMPT, scores=score, **FEW) for p in (plain, moved))
    assert (found.images == expected.images).all() and (found.mask == expected.mask).all()
    assert_equal_scores(found, expected)
    (expected,), (found,) = (memorization.mitigate(p, PROMPT, method, strength, **FEW) for p in (plain, moved))
    assert (found.images == expected.images).all() and found.magnitude_after == expected.magnitude_after


def test_it_is_the_same_model(folder, moved):
    plain = load_pipeline(folder)
    assert pipeline_contents(moved, from_memory=True) == pipeline_contents(plain, from_memory=True)


def test_half_precision_is_decoded_in_float32(folder):
    images = []
    for offload in ("none", "sequential"):
        pipe = load(folder)
        pipe.vae.half()
        pipe.vae.register_to_config(force_upcast=True)
        offloaded(pipe, offload)
        latents = pipe.initial_latents([3]).half() * 1e3
        images.append(pipe.decode(latents))
        assert pipe.vae.dtype == torch.float16
    assert (images[0] == images[1]).all()


def test_parts_that_take_turns_are_not_called_from_two_threads():
    writer, seen = BackgroundWriter("cpu", at_once=True), []
    writer.submit(lambda: seen.append(threading.get_ident()))
    assert seen == [threading.get_ident()]
    with pytest.raises(ZeroDivisionError):
        writer.submit(lambda: 1 / 0)
    writer.close()


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_without_cuda_it_is_refused_in_one_line(folder, offload, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        argv = ["--model_id", folder, "--device", "cpu", "--offload", offload, "--output_dir", tmp_path]
        detect_mem.main([str(word) for word in argv])
    told = capsys.readouterr().err
    assert stopped.value.code == 2 and told.count("\n") == 1
    assert f"error: --offload {offload} keeps weights off a CUDA device, and the device here is cpu" in told
