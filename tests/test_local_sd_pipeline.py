"""The loop is diffusers' loop, bit for bit; an image depends on its seed; scores are on predicted noise."""

import resource
from functools import partial

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from attn_utils import down_cross_layers
from helpers.pipelines import assert_stock_pictures, make_pipeline
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Recorded, observe

PROMPT, SEEDS = "the golden owl mug", [3, 4, 5]


def run(pipe, seeds, steps=5, guidance_scale=7.5, **kwargs):
    text, negative = pipe.encode([PROMPT])
    embeds = tuple(e.expand(len(seeds), -1, -1) for e in (negative, text))
    return list(pipe.denoise(pipe.initial_latents(seeds, **kwargs), embeds, steps, guidance_scale=guidance_scale))


@pytest.mark.parametrize("guidance_scale", [7.5, 2.0])
def test_final_latents_and_images_equal_stock_diffusers(any_pipe, guidance_scale):
    stock = StableDiffusionPipeline(**any_pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    call = partial(stock, PROMPT, num_images_per_prompt=3, num_inference_steps=5, guidance_scale=guidance_scale)
    generators = [torch.Generator().manual_seed(s) for s in SEEDS]
    ours = run(any_pipe, SEEDS, guidance_scale=guidance_scale)[-1].next_latents
    assert torch.equal(ours, call(generator=generators, output_type="latent").images)
    generators = [torch.Generator().manual_seed(s) for s in SEEDS]
    batch = call(generator=generators, output_type="np").images
    assert_stock_pictures(any_pipe.decode(ours), stock, ours, batch)


def test_joint_seed_equals_one_generator_of_stock_diffusers(pipe):
    stock = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        PROMPT, num_images_per_prompt=3, num_inference_steps=3, output_type="latent",
        generator=torch.Generator().manual_seed(9),
    ).images  # fmt: skip
    assert torch.equal(run(pipe, SEEDS, 3, joint_seed=9)[-1].next_latents, theirs)


def test_an_image_depends_on_its_seed_alone(pipe):
    together, alone = run(pipe, SEEDS), run(pipe, SEEDS[1:2])
    torch.testing.assert_close(together[-1].next_latents[1:2], alone[-1].next_latents, rtol=1e-3, atol=1e-4)
    assert torch.equal(together[0].latents[1:2], alone[0].latents)


def test_noise_diff_of_v_prediction_is_that_of_the_predicted_noise(any_pipe):
    """Against the noise that DDIM itself derives: x_t = sqrt(a) x_0 + sqrt(1 - a) eps."""
    step = run(any_pipe, SEEDS)[2]
    alpha = any_pipe.scheduler.alphas_cumprod[step.timestep]
    noises = []
    for output in step.prediction.outputs:
        x0 = any_pipe.scheduler.step(output, step.timestep, step.latents).pred_original_sample
        noises.append((step.latents - alpha.sqrt() * x0) / (1 - alpha).sqrt())
    torch.testing.assert_close(step.noise_diff, noises[1] - noises[0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(step.noise_pred_uncond, noises[0], rtol=1e-3, atol=1e-4)


def test_the_loop_leaves_grad_mode_alone_and_can_stop(pipe):
    text, negative = pipe.encode([PROMPT])
    before = pipe.num_unet_evals
    for step in pipe.denoise(pipe.initial_latents([0]), (negative, text), 5):
        assert torch.is_grad_enabled() and not step.noise_pred.requires_grad
        break
    assert pipe.num_unet_evals - before == 2


def test_detection_with_a_mask_costs_two_evaluations_a_step(pipe):
    text, negative = pipe.encode([PROMPT])
    before, layers = pipe.num_unet_evals, down_cross_layers(pipe.unet)
    tokens = torch.tensor([pipe.end_token(PROMPT)])
    observe(pipe, pipe.initial_latents([0]), (negative, text), tokens, Recorded(layers), num_inference_steps=6)
    assert pipe.num_unet_evals - before == 2 * 6


def test_end_token_of_short_and_long_prompts(pipe):
    assert pipe.end_token("the golden owl mug") == 5
    long = "golden owl " * 60
    assert pipe.end_token(long) == pipe.tokenizer.model_max_length - 1
    assert pipe.truncated_text("the golden owl mug") == ""
    kept = pipe.tokenizer.model_max_length - 2
    assert pipe.truncated_text(long).split() == long.split()[kept:]


@pytest.mark.parametrize(
    ("prompt", "place"),
    [
        ("a red <|endoftext|> owl", 3),
        ("<|endoftext|>", 1),
        ("a <cat> here", None),
        ("<cat> and <dog> " * 30, None),
        ("golden owl " * 60, None),
        ("", 1),
        ("   ", 1),
    ],
)
def test_the_end_token_is_the_first_of_the_ids_that_are_encoded(prompt, place):
    """Read off what the text encoder is given: with tokens of several vectors, and with the end token spelled out."""
    pipe, seen = make_pipeline(), []
    pipe.tokenizer.add_tokens(["<cat>", "<cat>_1", "<cat>_2", "<dog>"])
    pipe.text_encoder.resize_token_embeddings(len(pipe.tokenizer))
    encoder = pipe.text_encoder.forward
    pipe.text_encoder.forward = lambda ids, **how: (seen.append(ids), encoder(ids, **how))[1]
    pipe.encode([prompt])
    ids = seen[-1][0].tolist()
    assert len(ids) == 77 and pipe.end_token(prompt) == ids.index(pipe.tokenizer.eos_token_id)
    assert place is None or pipe.end_token(prompt) == place
    assert ids[: len(pipe.token_ids(prompt))] == pipe.token_ids(prompt)


def test_a_prompt_of_many_vectors_says_what_is_cut_off():
    pipe = make_pipeline()
    pipe.tokenizer.add_tokens(["<cat>", "<cat>_1"])
    assert pipe.truncated_text("<cat> " * 37) == ""
    assert pipe.truncated_text("<cat> " * 40 + "owl").endswith("owl")


def test_unet_id_takes_the_place_of_the_models_own(pipe, model_folder, tmp_path):
    other = type(pipe.unet).from_config(pipe.unet.config)
    other.save_pretrained(tmp_path / "unet")
    for unet_id in (tmp_path, tmp_path / "unet"):
        loaded = load_pipeline(str(model_folder), unet_id=str(unet_id))
        assert torch.equal(loaded.unet.conv_in.weight, other.conv_in.weight)
    assert not torch.equal(other.conv_in.weight, pipe.unet.conv_in.weight)


@pytest.mark.slow
def test_a_random_model_of_sd_v1_4s_true_shape_runs_with_capture(pipe):
    unet = UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
    ).eval()
    big = LocalStableDiffusionPipeline(**{**pipe.components, "unet": unet}, requires_safety_checker=False)
    embeds = tuple(torch.randn(2, 77, 768) for _ in range(2))
    layers = down_cross_layers(unet)
    latents = torch.randn(2, 4, 64, 64)
    observed = observe(big, latents, embeds, torch.tensor([9, 20]), Recorded(layers), num_inference_steps=1)
    assert len(layers) == 2 and observed.mask.shape == (2, 1, 64, 64) and observed.latents.isfinite().all()
    assert observed.mask.isfinite().all()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB")
