"""Model folders: UNets that need other inputs, weights of one variant, and what is no folder."""

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline

import detect_mem
import inference_mem
from helpers.models import change_weights, model_copy
from memorization.models import folders
from memorization.models.families import SD
from memorization.models.folders import check_unet
from memorization.models.stable_diffusion import load_pipeline

SDXL = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 64}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 9}, "has 9 input and 4 output channels, of latents with 4"),  # inpainting
        ({"in_channels": 7}, "has 7 input"),  # upscaling
        ({"in_channels": 5}, "has 5 input"),  # depth
        ({"out_channels": 8}, "has 4 input and 8 output channels"),  # learned variance
        ({"in_channels": 16, "out_channels": 16}, "of latents with 4"),
        ({"num_class_embeds": 10}, "needs a class"),
        ({"class_embed_type": "projection"}, "needs a class"),
        ({"time_cond_proj_dim": 256}, "needs a guidance embedding"),
        (SDXL, "needs added conditions"),
        ({"encoder_hid_dim_type": "text_proj", "encoder_hid_dim": 16}, "needs projected conditions"),
        ({"cross_attention_dim": 1024}, "reads text features of width 1024, the text encoder's are 16"),
        ({"sample_size": [16, 24]}, "only square images"),
    ],
)
def test_a_unet_that_needs_something_else_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        check_unet({"cross_attention_dim": 16, "sample_size": 16, **config}, 4, 16, "m", SD)
    check_unet({"cross_attention_dim": 16, "sample_size": [16, 16]}, 4, 16, "m", SD)


@pytest.mark.parametrize("where", ["--model_id", "--unet_id"])
@pytest.mark.parametrize("config", [{"in_channels": 9}, {"num_class_embeds": 10}, SDXL])
def test_both_scripts_refuse_it_before_the_work(model_folder, tmp_path, capsys, where, config):
    """The weights fit the config, so that nothing but the look at it can refuse it."""
    pipe = load_pipeline(model_folder)
    unet = type(pipe.unet).from_config(dict(pipe.unet.config) | config)
    folder = model_copy(tmp_path / "m", model_folder)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")
    models = [where, folder, *(["--model_id", model_folder] if where == "--unet_id" else [])]
    for script in (detect_mem, inference_mem):
        with pytest.raises(SystemExit) as stop:
            script.main([str(a) for a in (*models, "--output_dir", tmp_path / "out", "--end", 1)])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and f"the UNet of {folder}" in error and error.count("\n") == 1


def test_a_square_as_a_list_is_its_side(model_folder, tmp_path):
    folder = model_copy(tmp_path / "m", model_folder, {"unet/config.json": {"sample_size": [16, 16]}})
    plain, listed = load_pipeline(model_folder), load_pipeline(folder)
    assert listed.native_length == plain.native_length == 32
    assert torch.equal(listed.initial_latents([3]), plain.initial_latents([3]))


def test_the_index_of_a_model_is_read_once_and_once_by_diffusers(model_folder, monkeypatch):
    read, read_json, load_config = [], folders.read_json, DiffusionPipeline.load_config.__func__
    monkeypatch.setattr(folders, "read_json", lambda path: read.append(path.name) or read_json(path))
    monkeypatch.setattr(
        DiffusionPipeline,
        "load_config",
        classmethod(lambda cls, *args, **how: read.append("diffusers") or load_config(cls, *args, **how)),
    )
    load_pipeline(model_folder)
    assert read.count("model_index.json") == read.count("diffusers") == 1


def test_weights_in_half_precision_alone_are_found(model_folder, tmp_path):
    folder = model_copy(tmp_path / "m", model_folder)
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        path = folder / part / f"{stem}.safetensors"
        halve = lambda tensors: tensors.update({k: v.half() for k, v in tensors.items()})  # noqa: E731
        change_weights(path, halve, folder / part / f"{stem}.fp16.safetensors")
    plain = load_pipeline(model_folder)
    loaded = [
        load_pipeline(folder),
        load_pipeline(model_folder, unet_id=folder),
        load_pipeline(model_folder, folder / "unet"),
    ]
    for pipe in loaded:
        weight = pipe.unet.conv_in.weight
        assert weight.dtype == torch.float32 and torch.equal(weight, plain.unet.conv_in.weight.half().float())
    assert torch.equal(loaded[0].vae.decoder.conv_in.weight, plain.vae.decoder.conv_in.weight.half().float())


def test_what_is_no_folder_is_named_for_what_it_is(model_folder, tmp_path):
    single, text = tmp_path / "sd.safetensors", tmp_path / "sd.txt"
    for path in (single, text):
        path.write_bytes(b"weights")
    folder = model_copy(tmp_path / "m", model_folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    for model, unet, message in (
        (single, None, "cannot load .*sd.safetensors as a Stable Diffusion pipeline"),
        (text, None, "sd.txt is no checkpoint: its name ends in none of .safetensors"),
        (tmp_path / "none.ckpt", None, "none.ckpt does not exist; give a single file"),
        (model_folder, single, "is a single file: a UNet"),
        (model_folder, tmp_path / "nowhere", "cannot load a UNet from .*: it does not exist"),
        (folder, model_folder, "vae has no weights"),
        (folder, None, "unet has no weights"),
        (model_folder, folder, "unet has no weights"),
    ):
        with pytest.raises(ValueError, match=message):
            load_pipeline(model, unet)
