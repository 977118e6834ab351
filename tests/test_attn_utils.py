"""Recording attention changes nothing, is undone, and records what the eager processor computes."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor

from attn_utils import AttentionStore, cross_attention_layers, down_cross_layers, record_cross_attention
from helpers.pipelines import make_pipeline
from memorization.observation import Recorded, observe

SEEDS = [5, 6, 7]
PROMPT = "a large red heart on the left"


def inputs(pipe):
    text, negative = pipe.encode([PROMPT])
    embeds = tuple(e.expand(len(SEEDS), -1, -1) for e in (negative, text))
    return pipe.initial_latents(SEEDS), embeds, torch.full((len(SEEDS),), pipe.end_token(PROMPT))


def processors_unchanged(pipe, before):
    after = pipe.unet.attn_processors
    return before.keys() == after.keys() and all(before[k] is after[k] for k in before)


def test_capture_leaves_the_image_bit_identical_and_is_undone(pipe):
    latents, embeds, tokens = inputs(pipe)
    before = pipe.unet.attn_processors
    plain = pipe.generate(latents, embeds, num_inference_steps=4)
    recorded = Recorded(down_cross_layers(pipe.unet))
    observed = observe(pipe, latents, embeds, tokens, recorded, num_inference_steps=4)
    assert torch.equal(plain, observed.latents)
    assert processors_unchanged(pipe, before)


def test_capture_is_undone_after_errors_and_nested(pipe):
    before, layers = pipe.unet.attn_processors, down_cross_layers(pipe.unet)
    with pytest.raises(RuntimeError):
        with record_cross_attention(pipe.unet, AttentionStore(layers)):
            with record_cross_attention(pipe.unet, AttentionStore(layers)):
                raise RuntimeError
    assert processors_unchanged(pipe, before)
    with pytest.raises(KeyError, match="nope"):
        with record_cross_attention(pipe.unet, AttentionStore(["nope"])):
            pass
    assert processors_unchanged(pipe, before)


@pytest.mark.parametrize(("steps", "heads", "pixels"), [(3, 4, 32), (5, 2, 32), (50, 4, 16), (4, 8, 48)])
def test_any_step_count_head_count_and_size(steps, heads, pixels):
    pipe = make_pipeline(heads=heads)
    _, embeds, tokens = inputs(pipe)
    latents = pipe.initial_latents(SEEDS, pixels)
    recorded = Recorded(down_cross_layers(pipe.unet))
    observed = observe(pipe, latents, embeds, tokens, recorded, num_inference_steps=steps)
    assert observed.mask.shape == (3, 1, pixels // 2, pixels // 2)
    assert observed.diff_maps.shape == (3, steps, pixels // 2, pixels // 2)
    assert 0 < observed.mask.min() and observed.mask.max() < 1


def eager_maps(pipe, latents, embeds, t):
    """Attention of every cross-attention layer as diffusers' eager processor multiplies it into the values."""
    seen, original = {}, Attention.get_attention_scores
    names = {id(m): f"{n}.processor" for n, m in pipe.unet.named_modules() if isinstance(m, Attention)}
    before = pipe.unet.attn_processors

    def spy(self, *args, **kwargs):
        seen[names[id(self)]] = original(self, *args, **kwargs)
        return seen[names[id(self)]]

    pipe.unet.set_attn_processor(AttnProcessor())
    Attention.get_attention_scores = spy
    try:
        pipe.predict_noise(latents, t, embeds)
    finally:
        Attention.get_attention_scores = original
        pipe.unet.set_attn_processor(dict(before))
    return {n: m.unflatten(0, (2 * len(latents), -1)).mean(1).chunk(2)[1] for n, m in seen.items()}


def test_recorded_maps_equal_the_eager_processors(pipe):
    latents, embeds, tokens = inputs(pipe)
    layers, t = cross_attention_layers(pipe.unet), 1
    whole, column = AttentionStore(layers), AttentionStore(layers, tokens)
    for store in (whole, column):
        with record_cross_attention(pipe.unet, store):
            pipe.predict_noise(latents, t, embeds)
    eager = eager_maps(pipe, latents, embeds, t)
    for name in layers:
        torch.testing.assert_close(whole.maps[name], eager[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(whole.maps[name].sum(2), torch.ones(whole.maps[name].shape[:2]))
        assert torch.equal(column.maps[name], whole.maps[name][:, :, tokens[0]])


def test_only_the_last_step_is_recorded(pipe):
    latents, embeds, tokens = inputs(pipe)
    layers = down_cross_layers(pipe.unet)
    store, last = AttentionStore(layers, tokens), AttentionStore(layers, tokens)
    pipe.generate(latents, embeds, store=store, num_inference_steps=4)
    steps = list(pipe.denoise(latents, embeds, 4))
    with record_cross_attention(pipe.unet, last):
        pipe.predict_noise(steps[-1].latents, steps[-1].timestep, embeds)
    assert all(torch.equal(store.maps[n], last.maps[n]) for n in layers)
    assert not torch.equal(store.maps[layers[0]], torch.zeros_like(store.maps[layers[0]]))


def test_down_blocks_without_cross_attention_are_refused():
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    with pytest.raises(ValueError, match="no cross-attention layers"):
        down_cross_layers(UNet2DConditionModel(block_out_channels=(8,), **blocks))


def test_maps_of_end_token_and_padding_change_neither_image_nor_mask(pipe):
    """The finest layers' end-token maps average to the mask; end, padding and the rest of the tokens sum to 1."""
    latents, embeds, tokens = inputs(pipe)
    layers, every = down_cross_layers(pipe.unet), cross_attention_layers(pipe.unet)
    plain, mapped, whole = (
        observe(pipe, latents, embeds, tokens, Recorded(layers, **options), num_inference_steps=2)
        for options in ({}, {"map_layers": every}, {"map_layers": layers, "all_tokens": True})
    )
    assert torch.equal(plain.latents, mapped.latents) and torch.equal(plain.mask, mapped.mask)
    ends = torch.stack([mapped.columns[name].end for name in layers])
    assert torch.equal(ends.mean(0).unsqueeze(1), plain.mask)
    assert mapped.columns.keys() == set(every) and not plain.columns
    for name in layers:
        probs, end, padding = whole.attention[name], mapped.columns[name].end, mapped.columns[name].padding
        size = end.shape[-2:]
        before = probs[:, :, : tokens[0]].sum(2).unflatten(1, size)
        assert torch.allclose(before + end + padding, torch.ones_like(end), atol=1e-5)
        assert torch.equal(whole.columns[name].padding, padding) and padding.mean() > 0.5  # 70 of 77 tokens
