"""A checkpoint in one file gives the folder's numbers, offline."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import detect_mem
from helpers.original_layout import write_single_file
from helpers.other_pipelines import make_sdxl
from memorization.bundled import MODEL
from memorization.models.contents import source_contents
from memorization.models.families import SDXL, parts_with_weights
from memorization.models.model_files import family_of_file
from memorization.models.stable_diffusion import load_pipeline

FEW = ("--num_inference_steps", 2, "--num_images_per_prompt", 1, "--end", 2)


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled model in one file."""
    path = tmp_path_factory.mktemp("single") / "planted.safetensors"
    write_single_file(MODEL, load_pipeline(MODEL), path)
    return path


def test_it_has_the_weights_and_the_tokenizer_of_the_folder(bundled):
    single, folder = load_pipeline(bundled, config=MODEL), load_pipeline(MODEL)
    for part in ("unet", "vae", "text_encoder"):
        found, expected = (getattr(p, part).state_dict() for p in (single, folder))
        assert found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)
    assert single.encode(["the wild owl poster"])[0].equal(folder.encode(["the wild owl poster"])[0])


def test_detection_gives_the_same_rows_and_images(bundled, tmp_path):
    rows = {}
    for name, model in (("folder", ["--model_id", MODEL]), ("single", ["--model_id", bundled, "--config", MODEL])):
        argv = [*model, *FEW, "--run_name", name, "--output_dir", tmp_path]
        detect_mem.main([str(word) for word in argv])
        lines = (tmp_path / "det_outputs" / f"{name}_ours.jsonl").read_text().splitlines()
        rows[name] = [{k: v for k, v in json.loads(line).items() if "seconds" not in k} for line in lines]
        images = sorted((tmp_path / "images_data" / f"{name}_ours").iterdir())
        rows[name].append([image.read_bytes() for image in images])
    assert rows["single"] == rows["folder"]


def test_one_file_of_sdxl_gives_the_folders_latents(tmp_path):
    random = make_sdxl(second_width=24)
    generator = torch.Generator().manual_seed(1)
    for part in parts_with_weights(random).values():
        for weight in part.parameters():  # those that begin alike, as biases do, too
            weight.data += 0.1 * torch.randn(weight.shape, generator=generator)
    random.save_pretrained(tmp_path / "folder")
    folder, latents = load_pipeline(tmp_path / "folder"), []
    path = tmp_path / "xl.safetensors"
    write_single_file(tmp_path / "folder", folder, path)
    assert family_of_file(path) is SDXL
    for pipe in (folder, load_pipeline(path, config=tmp_path / "folder")):
        text, negative = pipe.encode(["the wild owl poster"])
        latents.append(pipe.generate(pipe.initial_latents([3]), (negative, text), num_inference_steps=3))
    assert torch.equal(*latents) and latents[0].isfinite().all()
    assert (pipe.decode(latents[0]) == folder.decode(latents[0])).all()


def test_a_changed_file_is_another_model(bundled, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(bundled.read_bytes())
    same, before = source_contents(str(copy), config=str(MODEL)), source_contents(str(bundled), config=str(MODEL))
    assert same == before and set(same) == {"model_id"}
    copy.write_bytes(bundled.read_bytes()[:-1] + b"x")
    assert source_contents(str(copy), config=str(MODEL)) != before


@pytest.mark.parametrize(
    ("model", "config", "message"),
    [
        ("planted_sd", MODEL, "--config goes with a single file; .* has configs of its own"),
        ("single", MODEL / "vae", "is not a Stable Diffusion folder: it has no model_index.json"),
        ("single", None, "cannot load .*planted.safetensors as a Stable Diffusion pipeline"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(bundled, model, config, message):
    with pytest.raises(ValueError, match=message) as refused:
        load_pipeline(bundled if model == "single" else model, config=config)
    assert "\n" not in str(refused.value)


def test_a_file_that_lacks_weights_is_refused_in_one_line(bundled, tmp_path):
    state = load_file(bundled)
    for name, word in (("unet", "time_embed.0.bias"), ("text", "final_layer_norm.bias")):
        save_file({k: v for k, v in state.items() if word not in k}, tmp_path / f"{name}.safetensors")
    torch.save({"state_dict": {"a": torch.ones(1)}}, tmp_path / "other.ckpt")
    (tmp_path / "junk.ckpt").write_bytes(b"no checkpoint")
    for name, message in (
        ("unet.safetensors", "it lacks weights that the configs ask for"),
        ("text.safetensors", "it has no .*final_layer_norm.bias of the text_encoder"),
        ("other.ckpt", "Failed to load CLIPTextModel"),
        ("junk.ckpt", "Unable to load weights"),
    ):
        with pytest.raises(ValueError, match=f"cannot load .*{name}.*: {message}") as refused:
            load_pipeline(tmp_path / name, config=MODEL)
        assert "\n" not in str(refused.value)
