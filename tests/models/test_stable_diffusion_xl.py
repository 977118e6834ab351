"""SDXL in our own loop: equal to stock diffusers, scores against a computation by hand, loading, what is refused."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionXLPipeline

import memorization
from attn_utils import down_cross_layers
from helpers.other_pipelines import make_sdxl
from helpers.pipelines import assert_stock_pictures, final_latents, stock_images
from memorization.detectors import tokens
from memorization.errors import InputError
from memorization.models.contents import pipeline_contents
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Recorded, make_inputs, observe_batches

PROMPT, SEEDS, STEPS, GUIDANCE = "the wild owl poster", [3, 4, 5], 4, 5.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sdxl")
    make_sdxl().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    return load_pipeline(folder)


def generate(pipe, seeds=SEEDS):
    return final_latents(pipe, PROMPT, seeds, num_inference_steps=STEPS, guidance_scale=GUIDANCE)


@pytest.mark.parametrize("zeros", [True, False])
def test_final_latents_and_images_equal_stock_diffusers(folder, zeros):
    pipe = load_pipeline(folder)
    pipe.register_to_config(force_zeros_for_empty_prompt=zeros)
    stock = StableDiffusionXLPipeline(**pipe.components, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    stock.set_progress_bar_config(disable=True)

    def call(output_type):
        how = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        return stock_images(stock, PROMPT, SEEDS, output_type, **how)

    ours = generate(pipe)
    assert torch.equal(ours, call("latent"))
    assert_stock_pictures(pipe.decode(ours), stock, ours, call("np"))


def test_scores_and_maps_are_those_of_a_computation_by_hand(pipe):
    layers = down_cross_layers(pipe.unet)
    assert layers and all(name.startswith("down_blocks.1.") for name in layers)
    inputs = make_inputs(pipe, [PROMPT], [SEEDS])
    seen = observe_batches(pipe, inputs, 3, Recorded(layers), num_inference_steps=STEPS, guidance_scale=GUIDANCE)
    tokens, _, pooled, _ = pipe.encode_prompt(PROMPT, do_classifier_free_guidance=False)
    sizes = torch.tensor([[8.0, 8, 0, 0, 8, 8]])
    pipe.scheduler.set_timesteps(STEPS)
    t = pipe.scheduler.timesteps[0]

    def predict(latents, text, pooled):
        added = {"text_embeds": pooled, "time_ids": sizes}
        return pipe.unet(latents[None], t, encoder_hidden_states=text, added_cond_kwargs=added).sample[0]

    for latents, maps in zip(inputs.latents, seen.diff_maps, strict=True):
        diff = predict(latents, tokens, pooled) - predict(latents, tokens * 0, pooled * 0)
        assert maps[0].sum().sqrt().item() == pytest.approx(diff.norm().item(), rel=1e-4)
    assert seen.mask.shape == (3, 1, 4, 4)


def test_no_gradient_of_the_pooled_features_is_taken_for_that_of_padding(pipe, monkeypatch):
    seen = []
    groups = tokens.token_groups
    monkeypatch.setattr(tokens, "token_groups", lambda ends, norms: (seen.append(norms), groups(ends, norms))[1])
    how = {"num_inference_steps": STEPS, "scores": "token_significance", "num_images_per_prompt": 1}
    memorization.detect(pipe, PROMPT, **how)
    assert [norms.shape for norms in seen] == [(1, 77)]


def test_pooled_features_count_and_rows_behind_the_tokens_hold_nothing_else(pipe):
    text, negative = pipe.encode([PROMPT])
    assert text.shape == (1, 78, 32) and not text[:, 77, 16:].any() and text[:, 77, :16].any() and not negative.any()
    other = text.clone()
    other[:, 77, :16] = 0
    latents = pipe.initial_latents([1])
    full, without = (pipe.predict_noise(latents, 500, (negative, e)).diff().norm() for e in (text, other))
    assert (full - without).abs() > 1e-4


def test_an_image_depends_on_its_seed_alone(pipe):
    torch.testing.assert_close(generate(pipe)[1:2], generate(pipe, SEEDS[1:2]), rtol=1e-3, atol=1e-4)


def test_the_second_text_encoder_is_part_of_what_a_run_is_tied_to(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    pipe = make_sdxl()
    for parameter in pipe.text_encoder_2.parameters():
        parameter.data += 0.1
    pipe.text_encoder_2.save_pretrained(other / "text_encoder_2")
    found = [pipeline_contents(load_pipeline(f))["model_id"] for f in (folder, other)]
    from_memory = [pipeline_contents(load_pipeline(f), from_memory=True)["model_id"] for f in (folder, other)]
    assert found[0] != found[1] and from_memory[0] != from_memory[1]


def test_half_precision_is_decoded_in_float32(folder):
    pipe = load_pipeline(folder)
    pipe.vae.half()
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    image = pipe.decode(latents)
    assert pipe.vae.dtype == torch.float16
    pipe.vae.float()  # the same weights, rounded as they were
    assert (image == pipe.decode(latents.float())).all()


def test_what_is_not_defined_is_one_line(folder, pipe, tmp_path):
    with pytest.raises(ValueError, match="--embedding is read for Stable Diffusion 1 and 2"):
        load_pipeline(folder, embedding=["x.safetensors"])
    with pytest.raises(InputError, match="padding_fix is not defined for SDXL"):
        memorization.mitigate(pipe, PROMPT, "padding_fix", 1, num_inference_steps=2)


@pytest.mark.parametrize(
    ("method", "strength"),
    [("pe", 0.01), ("gni", 1), ("cfg_delay", 0.5), ("padding_mask", 0.7), ("attention_rescale", 0.25), ("rna", 2)],
)
def test_mitigations_act_and_strength_0_is_plain_generation(pipe, method, strength):
    how = {"num_inference_steps": STEPS, "num_images_per_prompt": 1}
    (plain,) = memorization.detect(pipe, PROMPT, **how)
    (off,) = memorization.mitigate(pipe, PROMPT, method, 0, **how)
    (on,) = memorization.mitigate(pipe, PROMPT, method, strength, **how)
    assert (off.images == plain.images).all() and (on.images != plain.images).any()


def test_attention_tiles_are_of_the_prompts_tokens(pipe):
    tiles = memorization.attention_tiles(pipe, "the wild owl poster", places=["down"], num_inference_steps=2)
    assert tiles.tokens == ("<begin>", "the", "wild", "owl", "poster", "<end>", "padding")
    assert tiles.maps.shape[:2] == (2, 7) and abs(tiles.maps.sum(1) - 1).max() < 1e-5
