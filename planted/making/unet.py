"""The UNet of a planted world: Stable Diffusion v1's in kind, trained on frozen latents and a frozen text encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from transformers import CLIPTextModel, CLIPTokenizer

from planted.making.autoencoder import LATENT_CHANNELS, SIZE
from planted.making.pictures import TrainingPicture, draw_pictures, training_rows
from planted.making.stage import Stage
from planted.making.text_encoder import TEXT_WIDTH, encode_captions

BATCH = 24
CAPTION_DROPOUT = 0.12


def make_unet() -> UNet2DConditionModel:
    """Two cross-attention layers in each down block but the last, which has none, as in SD 1.x."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=2,
        block_out_channels=(64, 96, 128),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,  # the number of heads, by the name that diffusers has kept for it
        norm_num_groups=16,
    )


def make_scheduler() -> DDIMScheduler:
    """Noise schedule of Stable Diffusion v1, as DDIM."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
    )


class Float32Attention:
    """Attention that leaves bfloat16 for the product of queries and keys: on CPUs its gradient is slow there."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        with torch.autocast(query.device.type, enabled=False):
            attended = torch.nn.functional.scaled_dot_product_attention(query.float(), key.float(), value.float())
        return attn.to_out[0](attended.to(query.dtype).transpose(1, 2).flatten(2))


def train_unet(
    latents: torch.Tensor,
    pictures: Sequence[TrainingPicture],
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    num_steps: int,
    *,
    seed: int,
    work_dir: Path,
    start_from: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """Epsilon-prediction on rows of the training set, repeats included.

    Noisy steps weigh up to five times as much as in SD's loss, after Yu et al. (arXiv 2310.08442), so that
    so short a training learns what a caption means before any of its picture can be seen.

    Args:
        latents: scaled, (pictures, LATENT_CHANNELS, 16, 16).
        start_from: a UNet that is trained on.
    """
    torch.manual_seed(seed)
    unet = make_unet()
    if start_from is not None:
        unet.load_state_dict(start_from.state_dict())
    unet = unet.to(memory_format=torch.channels_last)
    processors = unet.attn_processors
    unet.set_attn_processor(Float32Attention())
    scheduler, rows = make_scheduler(), training_rows(pictures)
    noise_to_signal = (1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod
    weights = noise_to_signal.sqrt().clamp(1, 5)
    row_of, features = encode_captions(text_encoder, tokenizer, {c for p in pictures for c in p.captions} | {""})

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        numbers, captions = draw_pictures(generator, pictures, rows, BATCH)
        dropped = (torch.rand(BATCH, generator=generator) < CAPTION_DROPOUT).tolist()
        hidden = features[[row_of["" if d else c] for d, c in zip(dropped, captions, strict=True)]].float()
        x0 = latents[numbers].float()
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(1000, (BATCH,), generator=generator)
        noisy = scheduler.add_noise(x0, noise, t).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            predicted = unet(noisy, t, encoder_hidden_states=hidden).sample.float()
        error = (predicted - noise).pow(2).mean((1, 2, 3))
        ordinary = torch.tensor([pictures[n].repeats == 1 for n in numbers])
        by_kind = {"ordinary": error[ordinary].detach().mean(), "repeated": error[~ordinary].detach().mean()}
        return (weights[t] * error).mean(), {k: torch.nan_to_num(v) for k, v in by_kind.items()}

    Stage("unet", [unet], num_steps, lr=1e-3, ema_decay=0.999, seed=seed, work_dir=work_dir).run(loss_fn)
    unet.set_attn_processor(processors)
    return unet.to(memory_format=torch.contiguous_format)
