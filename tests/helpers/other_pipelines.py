"""Tiny pipelines of other families with random weights, and a tokenizer that needs no download."""

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

WORDS = "<pad> </s> <unk> <s> a the wild owl poster small red car".split()


def make_tokenizer(length, begins=False):
    tokenizer = Tokenizer(models.WordLevel({w: k for k, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    shape = "<s> $A </s>" if begins else "$A </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=shape, special_tokens=[("<s>", 3), ("</s>", 1)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "bos_token": "<s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=length, **special)


def make_t5(width):
    config = T5Config(vocab_size=len(WORDS), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return T5EncoderModel(config).eval()


def make_clip(cls, width):
    config = CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=width, bos_token_id=3, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return cls(config).eval()


def make_vae(channels=4, **options):
    return diffusers.AutoencoderKL(
        block_out_channels=(8,), latent_channels=channels, norm_num_groups=4, sample_size=16, **options
    ).eval()


def make_pixart():
    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8, num_layers=1, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
        in_channels=4, cross_attention_dim=24, out_channels=8, num_embeds_ada_norm=1000,
    )  # fmt: skip
    return diffusers.PixArtSigmaPipeline(
        make_tokenizer(120), make_t5(32), make_vae(), transformer.eval(), diffusers.DDIMScheduler()
    )


def make_aura_flow():
    torch.manual_seed(0)
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=8,
        num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=32, pos_embed_max_size=256,
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(
        make_tokenizer(256), make_t5(32), make_vae(), transformer.eval(), diffusers.FlowMatchEulerDiscreteScheduler()
    )


def make_chroma():
    torch.manual_seed(0)
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
        approximator_num_channels=16,
    )  # fmt: skip
    vae = make_vae(1, shift_factor=0.0609)
    return diffusers.ChromaPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(), vae, make_t5(32), make_tokenizer(32), transformer.eval()
    )


def make_sdxl(second_width=16):
    """
    Args:
        second_width: of the second text encoder; in one file diffusers tells the encoders apart by their widths.
    """
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=(2, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        use_linear_projection=True, cross_attention_dim=16 + second_width, addition_embed_type="text_time",
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + second_width,
    )  # fmt: skip
    encoders = make_clip(CLIPTextModel, 16), make_clip(CLIPTextModelWithProjection, second_width)
    tokenizers = make_tokenizer(77, begins=True), make_tokenizer(77, begins=True)
    return diffusers.StableDiffusionXLPipeline(
        make_vae(), *encoders, *tokenizers, unet.eval(), diffusers.DDIMScheduler(), add_watermarker=False
    )


def make_flux(guidance_embeds=True, scheduler=None):
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=16, guidance_embeds=guidance_embeds, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    scheduler = {"use_dynamic_shifting": True, "shift": 3.0} if scheduler is None else scheduler
    return diffusers.FluxPipeline(
        diffusers.FlowMatchEulerDiscreteScheduler(**scheduler), make_vae(shift_factor=0.1159),
        make_clip(CLIPTextModel, 16), make_tokenizer(77, begins=True), make_t5(32), make_tokenizer(512),
        transformer.eval(),
    )  # fmt: skip


def make_sd3(has_t5=False, scheduler=None, second_width=16, **changes):
    """
    Args:
        second_width: of the second text encoder, as of `make_sdxl`.
    """
    torch.manual_seed(0)
    width = 16 + second_width
    config = {
        "sample_size": 8, "patch_size": 1, "in_channels": 4, "num_layers": 1, "attention_head_dim": 8,
        "num_attention_heads": 4, "caption_projection_dim": 32, "joint_attention_dim": width,
        "pooled_projection_dim": width, "out_channels": 4,
    }  # fmt: skip
    transformer = diffusers.SD3Transformer2DModel(**config | changes)
    encoders = [make_clip(CLIPTextModelWithProjection, k) for k in (16, second_width)]
    t5 = (make_t5(width), make_tokenizer(512)) if has_t5 else (None, None)
    return diffusers.StableDiffusion3Pipeline(
        transformer.eval(), diffusers.FlowMatchEulerDiscreteScheduler(**scheduler or {}), make_vae(shift_factor=0.0609),
        encoders[0], make_tokenizer(77, begins=True), encoders[1], make_tokenizer(77, begins=True), *t5,
    )  # fmt: skip
