"""Pictures of decoders that overflow in half precision, and of latents that are not finite: right, or named."""

import json

import numpy as np
import pytest
import torch

import detect_mem
import inference_mem
import memorization
from helpers.models import change_weights, model_copy
from memorization.bundled import PLANTED
from memorization.decoding import NotFiniteError, decode_finite
from memorization.errors import InputError
from memorization.models.stable_diffusion import load_pipeline

COMMON = ("--end", "2", "--num_images_per_prompt", "1", "--num_inference_steps", "2")


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory):
    """The bundled model with a decoder whose activations are beyond what float16 holds."""

    def enlarge(tensors):
        for name in ("decoder.conv_in.weight", "decoder.conv_in.bias"):
            tensors[name] = tensors[name].float() * 1e5

    folder = model_copy(tmp_path_factory.mktemp("overflow") / "m")
    change_weights(folder / "vae" / "diffusion_pytorch_model.safetensors", enlarge)
    return load_pipeline(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_image_that_overflows_is_decoded_again_in_float32(overflowing, dtype):
    pipe = overflowing
    latents = pipe.initial_latents([0])  # one is enough: half precision is slow on a CPU
    expected, processors = pipe.decode(latents), list(pipe.vae.attn_processors.values())
    try:
        torch.nn.Module.to(pipe.vae, dtype)
        raw = pipe.vae.decode(latents.to(dtype) / pipe.vae.config.scaling_factor, return_dict=False)[0]
        assert raw.isfinite().all() == (dtype == torch.bfloat16)  # which has the range of float32
        found = pipe.decode(latents.to(dtype))
        assert pipe.vae.dtype == dtype
        assert all(a is b for a, b in zip(processors, pipe.vae.attn_processors.values(), strict=True))
        assert np.abs(found.astype(int) - expected).max() <= 3 and expected.std() > 20
    finally:
        torch.nn.Module.to(pipe.vae, torch.float32)


def test_what_is_not_finite_in_float32_either_is_named(pipe):
    latents = pipe.initial_latents([0, 1])
    latents[1, 0, 0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="image 1 of the batch: its latents are NaN") as caught:
        pipe.decode(latents)
    assert caught.value.position == 1

    class Broken:
        dtype, config = torch.float32, pipe.vae.config
        to = _apply = lambda self, *args: self

        def decode(self, latents, return_dict):
            return (latents * float("inf"),)

    with pytest.raises(NotFiniteError, match="in float32 too"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "to", lambda self, *args: self)
        decode_finite(Broken(), torch.ones(1, 4, 2, 2))


@pytest.fixture
def broken_second(model_folder, monkeypatch):
    """A pipeline whose second prompt's latents end as NaN, though its first step is well."""
    pipe = load_pipeline(model_folder)
    decode = pipe.decode
    calls = []

    def decode_broken(latents):
        calls.append(None)
        return decode(latents * (float("nan") if len(calls) == 2 else 1))

    monkeypatch.setattr(pipe, "decode", decode_broken)
    return pipe


@pytest.mark.parametrize("script", [detect_mem, inference_mem])
def test_a_picture_that_cannot_be_made_is_named_and_the_others_go_on(broken_second, tmp_path, capsys, script):
    data = PLANTED / ("planted_memorized.jsonl" if script is detect_mem else "planted_mem_groundtruth")
    with pytest.raises(SystemExit) as stop:
        script.main(["--dataset", str(data), *COMMON, "--output_dir", str(tmp_path)], broken_second)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "the image of prompt 1 at seed" in error and "its latents are NaN" in error
    (rows,) = (tmp_path / "det_outputs").glob("*.jsonl")
    assert [json.loads(line)["index"] for line in rows.read_text().splitlines()] == [0]
    assert len(list((tmp_path / "images_data").rglob("*.png"))) == 1


def test_the_functions_refuse_it(broken_second):
    with pytest.raises(InputError, match="the image of prompt 1 at seed .* cannot be made: its latents"):
        memorization.detect(broken_second, ["an owl", "a fox"], num_inference_steps=2)
