"""The untrained parts of the bundled model: Stable Diffusion v1 in shape, a thousandth of its size.

Same kinds of module, same noise schedule, same 77-token prompts. Smaller: 64 px images, 16 x 16
latents, a tokenizer of 770 tokens, 64 to 128 UNet channels.
"""

from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from planted.making.scenes import SIZE

TEXT_WIDTH = 96
MAX_LENGTH = 77


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text half: three layers, features of 96 numbers per token."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_image_encoder() -> nn.Sequential:
    """The image half of the contrastive pre-training; thrown away afterwards."""
    layers: list[nn.Module] = []
    width = 3
    for channels in (32, 64, 96, 128):
        layers += [nn.Conv2d(width, channels, 3, stride=2, padding=1), nn.GroupNorm(8, channels), nn.SiLU()]
        width = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIZE // 16) ** 2, TEXT_WIDTH))


def make_vae() -> AutoencoderKL:
    """AutoencoderKL that halves the image twice: (3, 64, 64) to (4, 16, 16)."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def make_unet() -> UNet2DConditionModel:
    """Two cross-attention layers in each down block but the last, which has none, as in SD 1.x."""
    return UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=4,
        out_channels=4,
        layers_per_block=2,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
