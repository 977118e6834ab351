"""Attention tiles: what they show is what an eager computation gives, and looking changes no image."""

import json

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from helpers.pipelines import make_pipeline
from memorization import InputError, attention_tiles
from memorization.tiles import components
from memorization.token_attention import PADDING
from tools import show_attention

PROMPT = "a large red heart on the left"
FEW = {"num_inference_steps": 3, "seed": 5}


def attention_by_hand(pipe, layer, step):
    """One layer's softmax of the text branch at one step, averaged over heads: (tokens, positions)."""
    text, uncond = pipe.encode([PROMPT])
    kept = []

    class Eager(AttnProcessor):
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **kwargs):
            states, tokens = hidden_states[1:], encoder_hidden_states[1:]
            query, key = attn.head_to_batch_dim(attn.to_q(states)), attn.head_to_batch_dim(attn.to_k(tokens))
            kept.append(attn.get_attention_scores(query, key).mean(0).T)
            return super().__call__(attn, hidden_states, encoder_hidden_states, **kwargs)

    before = pipe.unet.attn_processors
    pipe.unet.set_attn_processor({n: Eager() if n == layer else p for n, p in before.items()})
    pipe.generate(pipe.initial_latents([5]), (uncond, text), num_inference_steps=3)
    pipe.unet.set_attn_processor(before)
    return kept[step]


def test_a_layers_tiles_are_its_softmax_with_the_padding_as_one(pipe):
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"
    tiles = attention_tiles(pipe, PROMPT, layers=[layer.removesuffix(".processor")], steps=[1], **FEW)
    expected = attention_by_hand(pipe, layer, 1)
    own = len(tiles.tokens) - 1
    assert tiles.layers == (layer,) and tiles.steps == (1,)
    assert tiles.tokens[0] == "<begin>" and tiles.tokens[-2:] == ("<end>", PADDING)
    found = torch.from_numpy(tiles.mean()).flatten(1)
    torch.testing.assert_close(found[:own], expected[:own], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[own], expected[own:].sum(0), rtol=1e-4, atol=1e-6)


def test_looking_changes_no_image_and_what_all_tokens_get_is_one(pipe):
    text, uncond = pipe.encode([PROMPT])
    plain = pipe.decode(pipe.generate(pipe.initial_latents([5]), (uncond, text), num_inference_steps=3))[0]
    before = pipe.unet.attn_processors
    tiles = attention_tiles(pipe, PROMPT, **FEW)
    looked = attention_tiles(pipe, PROMPT, self_components=3, resolutions=[8], **FEW)
    assert np.array_equal(tiles.image, plain) and np.array_equal(looked.image, plain)
    assert pipe.unet.attn_processors.keys() == before.keys()
    assert all(pipe.unet.attn_processors[name] is before[name] for name in before)
    assert tiles.maps.shape[0] == 3 and np.allclose(tiles.maps.sum(1), 1, atol=1e-5)
    assert looked.tokens == ("component 1", "component 2", "component 3") and looked.maps.shape[1:] == (3, 8, 8)


def test_layers_are_chosen_by_place_and_resolution(pipe):
    every = attention_tiles(pipe, PROMPT, steps=[-1], **FEW)
    down = attention_tiles(pipe, PROMPT, places=["down"], steps=[-1], **FEW)
    assert every.steps == (2,) and set(down.layers) < set(every.layers)
    assert all(name.startswith("down_blocks") for name in down.layers)
    coarse = attention_tiles(pipe, PROMPT, resolutions=[every.maps.shape[-1] // 2], steps=[-1], **FEW)
    assert set(coarse.layers) < set(every.layers) and coarse.maps.shape[-1] == every.maps.shape[-1] // 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": ["left"]}, "place 'left' is none of down, mid, up, joint, single"),
        ({"places": ["joint"]}, "no such attention at joint; it has some at down, mid, up"),
        ({"layers": ["attentions.9"]}, "no attention layer at these places has attentions.9 in its name"),
        ({"resolutions": [5]}, r"no attention of \[5\]; these layers have \["),
        ({"steps": [3]}, "steps are counted from 0 to 2, or from -1 back; 3 is none of them"),
        ({"steps": []}, "steps are counted from 0 to 2"),
        ({"self_components": 2}, "choose one resolution"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(pipe, options, message):
    with pytest.raises(InputError, match=message):
        attention_tiles(pipe, PROMPT, **FEW, **options)


def test_the_first_component_tells_two_groups_of_positions_apart():
    """Positions of the left half look at the left half, those of the right at the right one."""
    left = torch.arange(16) % 4 < 2
    attention = (left[:, None] == left[None]).float() / 8
    (first,) = components([attention[None]], 1)
    assert first.shape == (4, 4) and set(first.round(decimals=4).unique().tolist()) == {0.0, 1.0}
    assert torch.equal(first.flatten() > 0.5, left) or torch.equal(first.flatten() < 0.5, left)


def test_the_command_draws_a_picture_and_refuses_in_one_line(model_folder, tmp_path, capsys):
    output = tmp_path / "made" / "tiles.png"
    argv = [PROMPT, "--model_id", str(model_folder), "--output", str(output), "--num_inference_steps", "2"]
    show_attention.main([*argv, "--strip", "--steps", "0,-1"])
    assert Image.open(output).width > 500 and "2 steps" in capsys.readouterr().out
    show_attention.main([*argv, "--place", "up"])
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["prompt"] == PROMPT and told["tokens"][0] == "<begin>" and told["steps"] == [0, 1] and told["seed"] == 0
    assert told["model_id"] == str(model_folder) and all(name.startswith("up_") for name in told["layers"])
    with pytest.raises(SystemExit) as stopped:
        show_attention.main([*argv, "--resolution", "7"])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert stopped.value.code == 2 and error.startswith("error: no attention of [7]")


def test_more_tokens_than_fit_have_no_padding_tile():
    tiles = attention_tiles(make_pipeline(), "red house " * 60, steps=[0], **FEW)
    assert tiles.tokens[-1] == "<end>" and PADDING not in tiles.tokens
