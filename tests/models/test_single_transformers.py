"""Stable Diffusion 3 or Flux.1 in one file, what it lacks being a folder's, gives the folder's numbers."""

import json
import shutil

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from helpers.models import write_json
from helpers.original_layout import encoders_beside, flux_state, sd3_state, vae_beside
from helpers.other_pipelines import make_flux, make_sd3
from memorization.models.contents import source_contents
from memorization.models.families import FLUX, SD3
from memorization.models.model_files import family_of_file
from memorization.models.stable_diffusion import load_pipeline

CONFIG = {"num_layers": 2, "patch_size": 2, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}
ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
# What each file of the fixture holds beside the transformer.
HELD = {"alone": [], "both": ["vae"], "clips": ["vae", *list(ENCODERS)[:2]], "all": ["vae", *ENCODERS]}
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
    """A folder, and files of its transformer alone, with its VAE, and with text encoders as well."""
    folder = tmp_path_factory.mktemp("sd3")
    pipe = make_sd3(has_t5=True, scheduler={"shift": 3.0}, second_width=24, **CONFIG)
    for part in ("transformer", "vae", *ENCODERS):
        shaken(getattr(pipe, part))
    pipe.text_encoder.text_projection.weight.data = torch.eye(16)  # the authors' code has none
    pipe.save_pretrained(folder / "whole")
    weights = sd3_state(pipe.transformer.state_dict())
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / "alone.safetensors")
    beside = {f"model.diffusion_model.{k}": v for k, v in weights.items()} | vae_beside(pipe.vae)
    for name in ("both", "clips", "all"):
        encoders = {part: ENCODERS[part] for part in HELD[name] if part in ENCODERS}
        state = beside | encoders_beside(pipe, encoders)
        state.pop("text_encoders.clip_l.transformer.text_projection.weight", None)
        state.pop("text_encoders.t5xxl.transformer.encoder.embed_tokens.weight", None)  # tied: the same once more
        save_file({k: v.clone() for k, v in state.items()}, folder / f"{name}.safetensors")
    return folder


def final(pipe):
    text, negative = pipe.encode([PROMPT])
    latents = pipe.generate(pipe.initial_latents([3]), (negative, text), num_inference_steps=2)
    return latents, torch.from_numpy(pipe.decode(latents))


def in_fresh_memory(pipe):
    """Its weights copied: on cores without AVX-512 kernels round by where in a file's memory they lie."""
    for part in ("transformer", "vae", *ENCODERS):
        for weight in getattr(pipe, part).parameters():
            weight.data = weight.data.clone()
    return pipe


@pytest.mark.parametrize("name", HELD)
def test_it_gives_the_folders_latents_and_images(sd3, name, tmp_path):
    path, config = sd3 / f"{name}.safetensors", tmp_path / "config"
    shutil.copytree(sd3 / "whole", config)
    for part in ("transformer", *HELD[name]):  # their configs are all that is read of them
        for weights in (config / part).glob("*.safetensors"):
            weights.unlink()
    assert family_of_file(path) is SD3
    expected, found = (
        final(in_fresh_memory(pipe)) for pipe in (load_pipeline(sd3 / "whole"), load_pipeline(path, config=config))
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)) and found[0].isfinite().all()


def test_what_lies_beside_it_is_part_of_its_identity(sd3, tmp_path):
    path, config = str(sd3 / "alone.safetensors"), tmp_path / "config"
    shutil.copytree(sd3 / "whole", config)
    before = source_contents(path, config=str(config))
    assert before == source_contents(path, config=str(sd3 / "whole"))
    weights = config / "text_encoder" / "model.safetensors"
    save_file({k: v + 1 for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    assert source_contents(path, config=str(config)) != before
    alike = [source_contents(str(sd3 / "clips.safetensors"), config=str(folder)) for folder in (config, sd3 / "whole")]
    assert alike[0] == alike[1]  # the file has that encoder itself


def test_text_encoders_of_the_file_are_not_read_and_that_is_said(sd3, tmp_path, capsys):
    config = tmp_path / "config"
    shutil.copytree(sd3 / "whole", config)
    index = json.loads((config / "model_index.json").read_text())
    write_json(config / "model_index.json", index | {"text_encoder_3": [None, None], "tokenizer_3": [None, None]})
    assert load_pipeline(sd3 / "all.safetensors", config=config).text_encoder_3 is None
    assert "has text_encoders.t5xxl, not read: the text encoders are those of" in capsys.readouterr().err


def test_what_does_not_fit_is_refused_in_one_line(sd3, tmp_path):
    alone, whole = sd3 / "alone.safetensors", sd3 / "whole"
    make_flux().save_pretrained(tmp_path / "flux")
    shutil.copytree(whole, tmp_path / "deeper")
    values = tmp_path / "deeper" / "transformer" / "config.json"
    write_json(values, json.loads(values.read_text()) | {"num_layers": 3})
    state = load_file(alone)
    del state["context_embedder.bias"]
    save_file(state, tmp_path / "torn.safetensors")
    state = load_file(sd3 / "clips.safetensors")
    del state["text_encoders.clip_g.transformer.text_projection.weight"]
    save_file(state, tmp_path / "unprojected.safetensors")
    torch.save(load_file(alone), tmp_path / "pickle.ckpt")
    for path, config, message in (
        (alone, None, "is Stable Diffusion 3 in one file: not all .* give by --config the folder"),
        (alone, tmp_path / "flux", "is Flux.1, and .* is Stable Diffusion 3"),
        (alone, tmp_path / "deeper", "it has 2 joint_blocks, the config 3"),
        (tmp_path / "torn.safetensors", whole, "context_embedder.bias"),
        (tmp_path / "unprojected.safetensors", whole, "has no text_projection.weight of the text_encoder_2"),
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
    state = {f"model.diffusion_model.{k}": v for k, v in flux_state(pipe.transformer.state_dict()).items()}
    state |= encoders_beside(pipe, {"text_encoder": "clip_l", "text_encoder_2": "t5xxl"})
    state |= vae_beside(pipe.vae, "vae.")
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "flux.safetensors")
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        for weights in (tmp_path / "flux" / part).glob("*.safetensors"):
            weights.unlink()
    found = load_pipeline(tmp_path / "flux.safetensors", config=tmp_path / "flux", device="cpu", dtype="bfloat16")
    for part in ("transformer", "vae", "text_encoder", "text_encoder_2"):
        expected, read = (getattr(p, part).state_dict() for p in (pipe.to(torch.bfloat16), found))
        assert expected.keys() == read.keys() and all(torch.equal(expected[k], read[k]) for k in expected)
