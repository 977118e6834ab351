"""A transformer of Stable Diffusion 3 or Flux.1 in one file, with a folder's other parts, gives its numbers."""

import json
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from helpers.models import write_json
from helpers.original_layout import flux_state, sd3_state, vae_key
from helpers.other_pipelines import make_flux, make_sd3
from memorization.models.contents import source_contents
from memorization.models.families import FLUX, SD3
from memorization.models.model_files import family_of_file
from memorization.models.stable_diffusion import load_pipeline

CONFIG = {"num_layers": 2, "patch_size": 2, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
PROMPT = "the wild owl poster"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def shaken(model, seed=1):
    """A model whose weights are all different, those that begin alike, as biases do, too."""
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    return model


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    """A folder, and files of its transformer alone and with its VAE."""
    folder = tmp_path_factory.mktemp("sd3")
    pipe = make_sd3(has_t5=True, scheduler={"shift": 3.0}, **CONFIG)
    shaken(pipe.transformer), shaken(pipe.vae)
    pipe.save_pretrained(folder / "whole")
    weights = sd3_state(pipe.transformer.state_dict())
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "alone.safetensors")
    both = {f"model.diffusion_model.{k}": v for k, v in weights.items()}
    for key, value in pipe.vae.state_dict().items():
        is_projection = ".attentions." in key and key.endswith("weight") and value.ndim == 2
        both[f"first_stage_model.{vae_key(key, 1)}"] = value[..., None, None] if is_projection else value
    save_file({k: v.contiguous() for k, v in both.items()}, folder / "both.safetensors")
    return folder


def final(pipe):
    text, negative = pipe.encode([PROMPT])
    latents = pipe.generate(pipe.initial_latents([3]), (negative, text), num_inference_steps=2)
    return latents, torch.from_numpy(pipe.decode(latents))


@pytest.mark.parametrize("name", ["alone", "both"])
def test_it_gives_the_folders_latents_and_images(sd3, name, tmp_path):
    path, config = sd3 / f"{name}.safetensors", tmp_path / "config"
    shutil.copytree(sd3 / "whole", config)
    shutil.rmtree(config / "transformer")  # its config is all that is read of it
    (config / "transformer").mkdir()
    shutil.copy(sd3 / "whole" / "transformer" / "config.json", config / "transformer")
    if name == "both":
        state = load_file(config / "vae" / "diffusion_pytorch_model.safetensors")
        save_file({k: v * 0 for k, v in state.items()}, config / "vae" / "diffusion_pytorch_model.safetensors")
    assert family_of_file(path) is SD3
    expected, found = final(load_pipeline(sd3 / "whole")), final(load_pipeline(path, config=config))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)) and found[0].isfinite().all()


def test_what_lies_beside_it_is_part_of_its_identity(sd3, tmp_path):
    path, config = str(sd3 / "alone.safetensors"), tmp_path / "config"
    shutil.copytree(sd3 / "whole", config)
    before = source_contents(path, config=str(config))
    assert before == source_contents(path, config=str(sd3 / "whole"))
    weights = config / "text_encoder" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert source_contents(path, config=str(config)) != before


def test_text_encoders_of_the_file_are_not_read_and_that_is_said(sd3, tmp_path, capsys):
    state = load_file(sd3 / "alone.safetensors") | {"text_encoders.clip_l.transformer.x": torch.ones(1)}
    save_file(state, tmp_path / "more.safetensors")
    load_pipeline(tmp_path / "more.safetensors", config=sd3 / "whole")
    assert "has text encoders of its own, which are not read" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_one_line(sd3, tmp_path):
    alone, whole = sd3 / "alone.safetensors", sd3 / "whole"
    make_flux().save_pretrained(tmp_path / "flux")
    shutil.copytree(whole, tmp_path / "deeper")
    values = tmp_path / "deeper" / "transformer" / "config.json"
    write_json(values, json.loads(values.read_text()) | {"num_layers": 3})
    state = load_file(alone)
    del state["context_embedder.bias"]
    save_file(state, tmp_path / "torn.safetensors")
    torch.save(load_file(alone), tmp_path / "pickle.ckpt")
    for path, config, message in (
        (alone, None, "is Stable Diffusion 3 in one file: .* give by --config the folder"),
        (alone, tmp_path / "flux", "is Flux.1, and .* is Stable Diffusion 3"),
        (alone, tmp_path / "deeper", "it has 2 joint_blocks, the config 3"),
        (tmp_path / "torn.safetensors", whole, "context_embedder.bias"),
        (tmp_path / "pickle.ckpt", whole, "holds no transformer"),
    ):
        with pytest.raises(ValueError, match=message) as refused:
            load_pipeline(path, config=config)
        assert "\n" not in str(refused.value)


def test_dev_and_schnell_are_told_apart_in_one_file(tmp_path):
    make_flux(guidance_embeds=True).save_pretrained(tmp_path / "dev")
    schnell = make_flux(guidance_embeds=False)
    state = flux_state(schnell.transformer.state_dict())
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "schnell.safetensors")
    assert family_of_file(tmp_path / "schnell.safetensors") is FLUX
    with pytest.raises(ValueError, match="takes no guidance scale, unlike the config's model"):
        load_pipeline(tmp_path / "schnell.safetensors", config=tmp_path / "dev")


@pytest.mark.slow  # a gigabyte: diffusers reads Flux.1 in its own width alone
def test_one_file_of_flux_has_the_folders_weights(tmp_path):
    torch.manual_seed(0)
    pipe = make_flux()
    wide = {**pipe.transformer.config, "attention_head_dim": 128, "num_attention_heads": 24}
    wide["axes_dims_rope"] = (16, 56, 56)
    pipe.transformer = FluxTransformer2DModel.from_config(wide).to(torch.bfloat16)
    pipe.save_pretrained(tmp_path / "flux")
    state = flux_state(pipe.transformer.state_dict())
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "flux.safetensors")
    found = load_pipeline(tmp_path / "flux.safetensors", config=tmp_path / "flux", device="cpu", dtype="bfloat16")
    expected, read = pipe.transformer.state_dict(), found.transformer.state_dict()
    assert expected.keys() == read.keys() and all(torch.equal(expected[k], read[k]) for k in expected)
