"""Attention tiles of transformers: columns of the softmax over text and image; looking changes no image."""

import json

import numpy as np
import pytest
import torch

from helpers.joint_attention import OpenJointAttention
from helpers.other_pipelines import make_flux, make_sd3
from memorization import InputError, attention_tiles
from memorization.models.stable_diffusion import load_pipeline
from tools import show_attention

PROMPT, STEPS, SEED = "the wild owl poster", 3, 5
FEW = {"num_inference_steps": STEPS, "seed": SEED}
WORDS = PROMPT.split()
T5 = [*WORDS, "<end>", "padding"]
CLIP = ["<begin>", *T5]
LABELS = {
    "sd3": [*(f"clip {t}" for t in CLIP), *(f"t5 {t}" for t in T5)],
    "sd3 without T5": CLIP,
    "flux": T5,
}
# The rows of each label.
T5_ROWS = [[k] for k in range(5)] + [[*range(5, 512)]]
CLIP_ROWS = [[k] for k in range(6)]
ROWS = {
    "sd3": [*CLIP_ROWS, [*range(6, 77)], *([77 + k] for k in range(5)), [*range(82, 333)]],
    "sd3 without T5": [*CLIP_ROWS, [*range(6, 333)]],
    "flux": T5_ROWS,
}


@pytest.fixture(scope="module", params=list(LABELS))
def model(request, tmp_path_factory):
    """Name, folder and pipeline of a tiny model."""
    folder = tmp_path_factory.mktemp("model")
    made = make_flux() if request.param == "flux" else make_sd3(has_t5=request.param == "sd3", num_layers=2)
    made.save_pretrained(folder)
    pipe = load_pipeline(folder)
    if request.param == "flux":
        pipe.default_sample_size = 8
    return request.param, folder, pipe


def attention_by_hand(pipe, layer, step):
    """A layer's attention of the image to everything at one step, averaged over heads, (positions, rows)."""
    before, opened = pipe.transformer.attn_processors, OpenJointAttention()
    pipe.transformer.set_attn_processor(before | {layer: opened})
    text, uncond = pipe.encode([PROMPT])
    pipe.generate(pipe.initial_latents([SEED]), (uncond, text), num_inference_steps=STEPS)
    pipe.transformer.set_attn_processor(dict(before))
    calls = len(opened.seen) // STEPS  # the prompt is in the last, or its last sample
    return opened.seen[step * calls + calls - 1][-1].mean(0)[pipe.text_length :]


def test_tiles_are_columns_of_the_softmax_by_hand(model):
    name, _, pipe = model
    for place in ("joint", "single") if name == "flux" else ("joint",):
        tiles = attention_tiles(pipe, PROMPT, places=[place], layers=["transformer_blocks.0."], steps=[1], **FEW)
        (layer,) = tiles.layers
        assert list(tiles.tokens) == LABELS[name] and layer.startswith("single_") == (place == "single")
        found = torch.from_numpy(tiles.mean()).flatten(1)
        expected = attention_by_hand(pipe, layer, 1)
        by_label = torch.stack([expected[:, rows].sum(1) for rows in ROWS[name]])
        torch.testing.assert_close(found, by_label, rtol=1e-3, atol=1e-6)


def test_components_are_of_the_image_part_and_looking_changes_no_image(model):
    _, _, pipe = model
    text, uncond = pipe.encode([PROMPT])
    plain = pipe.decode(pipe.generate(pipe.initial_latents([SEED]), (uncond, text), num_inference_steps=STEPS))[0]
    before = pipe.transformer.attn_processors
    tiles = attention_tiles(pipe, PROMPT, **FEW)
    looked = attention_tiles(pipe, PROMPT, self_components=2, steps=[-1], layers=["transformer_blocks.0."], **FEW)
    assert np.array_equal(tiles.image, plain) and np.array_equal(looked.image, plain)
    assert all(pipe.transformer.attn_processors[name] is before[name] for name in before)
    assert tiles.maps.shape[0] == STEPS and (tiles.maps.sum(1) < 1).all()  # the rest is of the image
    matrices = [attention_by_hand(pipe, layer, STEPS - 1)[:, pipe.text_length :] for layer in looked.layers]
    matrix = torch.stack(matrices).mean(0)
    values = torch.linalg.svd(matrix - matrix.mean(1, keepdim=True))[2][0]
    values = values * values[values.abs().argmax()].sign()
    expected = (values - values.min()) / (values.max() - values.min())
    torch.testing.assert_close(torch.from_numpy(looked.mean()[0]).flatten(), expected, rtol=1e-2, atol=1e-2)


def test_the_command_draws_them_and_places_of_a_unet_are_refused(model, tmp_path, capsys):
    name, folder, pipe = model
    with pytest.raises(InputError, match="this model has no such attention at up; it has some at joint"):
        attention_tiles(pipe, PROMPT, places=["up"], **FEW)
    if name == "flux":  # whose usual size is 1024 pixels
        return
    output = tmp_path / "tiles.png"
    argv = [PROMPT, "--model_id", str(folder), "--output", str(output), "--num_inference_steps", "2"]
    show_attention.main([*argv, "--place", "joint"])
    assert json.loads(output.with_suffix(".json").read_text())["tokens"] == LABELS[name] and output.stat().st_size
