"""Tiny random pipelines in Stable Diffusion's shape."""

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import MODEL

LATENT, WIDTH = 16, 16


@torch.no_grad()
def stock_pictures(stock, latents):
    """Final latents to uint8 pictures as diffusers' pipelines do it, each by itself.

    Convolutions of a batch round otherwise in the last bits, and by the number of threads, so that a pixel between two
    levels may fall to the other.
    """
    scale, process = stock.vae.config.scaling_factor, stock.image_processor.postprocess
    decoded = [stock.vae.decode(one / scale, return_dict=False)[0] for one in latents.split(1)]
    return np.concatenate([(process(image, output_type="np") * 255).round().astype("uint8") for image in decoded])


def assert_stock_pictures(found, stock, latents, batch):
    """Equal to those of `stock_pictures`, and to a batch of the whole pipeline but for such pixels.

    Args:
        batch: what the pipeline itself returns, float (images, height, width, 3).
    """
    assert (found == stock_pictures(stock, latents)).all()
    np.testing.assert_allclose(found, batch * 255, atol=0.5 + 1e-3)


def final_latents(pipe, prompt, seeds, **how):
    """Of a prompt by our own loop, an image per seed."""
    text, negative = pipe.encode([prompt])
    embeds = tuple(e.expand(len(seeds), -1, -1) for e in (negative, text))
    return pipe.generate(pipe.initial_latents(seeds), embeds, **how)


def stock_images(stock, prompt, seeds, output_type, **how):
    """What diffusers' own pipeline returns for a prompt, an image per seed."""
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    return stock(prompt, generator=generators, output_type=output_type, num_images_per_prompt=len(seeds), **how).images


def make_pipeline(prediction_type="epsilon", heads=4, latent=LATENT):
    """Random weights, two cross-attention layers in the finest down block, 77 tokens."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    text_config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=latent, block_out_channels=(16, 32), layers_per_block=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=heads,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, latent_channels=4,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, prediction_type=prediction_type,
    )  # fmt: skip
    pipe = LocalStableDiffusionPipeline(
        vae=vae, text_encoder=CLIPTextModel(text_config), tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    for module in (unet, vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe
