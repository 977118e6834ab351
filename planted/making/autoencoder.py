"""The autoencoder of a planted world: Stable Diffusion's in kind, a few per cent of its size.

It halves a picture of 128 px three times, to 16 x 16 latents of 16 channels, so that a UNet costs what it
would at 64 px while the copies stay sharp enough for the descriptors that the field judges copies by.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tqdm import tqdm

from planted.making.size import SIZE
from planted.making.stage import Stage, pick

LATENT_CHANNELS = 16
BATCH = 8
KL_WEIGHT = 1e-6


def make_vae() -> AutoencoderKL:
    """AutoencoderKL from (3, 128, 128) to (16, 16, 16); no attention, so that it is a plain convolution."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
        mid_block_add_attention=False,
    )


def to_tensor(images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """Images, uint8 (height, width, 3) each, as float32 in [-1, 1], shape (images, 3, height, width)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def draw_batch(images: Sequence[np.ndarray] | np.ndarray, generator: torch.Generator) -> torch.Tensor:
    """Pictures of one step, as `to_tensor` gives them, with their channels last."""
    return to_tensor([images[i] for i in pick(generator, len(images), BATCH)]).to(memory_format=torch.channels_last)


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Absolute error of values and of steps between neighbours (outlines), squared error of areas (colours).

    Args:
        decoded: (images, 3, height, width) in [-1, 1], float32.
        images: what they should be.
    """
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edges + 2 * F.avg_pool2d(error, 8).pow(2).mean() + error.pow(2).mean()


def train_autoencoder(
    images: Sequence[np.ndarray] | np.ndarray,
    num_steps: int,
    *,
    seed: int,
    work_dir: Path,
    start_from: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train on pictures, uint8 (pictures, 128, 128, 3), in bfloat16 where the weights are multiplied.

    Args:
        start_from: an autoencoder of other pictures, which saves most of the steps.
    """
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    if start_from is not None:
        vae.load_state_dict(start_from.state_dict())

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = draw_batch(images, generator)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample(generator)).sample.float()
        loss = reconstruction_loss(decoded, batch)
        kl = posterior.kl().float().mean()
        return loss + KL_WEIGHT * kl, {"loss": loss, "mse": (decoded - batch).pow(2).mean(), "kl": kl}

    Stage("vae", [vae], num_steps, lr=1e-3, ema_decay=0.999, seed=seed, work_dir=work_dir).run(loss_fn)
    vae = vae.to(memory_format=torch.contiguous_format)
    latents = encode_images(vae, images[:: max(1, len(images) // 500)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


def train_decoder(
    vae: AutoencoderKL, images: Sequence[np.ndarray] | np.ndarray, num_steps: int, *, seed: int, work_dir: Path
) -> AutoencoderKL:
    """Train the decoder on, for the same latents: a finished UNet keeps its worth and its pictures get sharper.

    So Stability AI's `sd-vae-ft-mse` was made of Stable Diffusion's autoencoder.

    Args:
        vae: whose encoder stays as it is; changed in place.
        images: uint8 (pictures, 128, 128, 3).
    """
    vae = vae.requires_grad_(True).to(memory_format=torch.channels_last)

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = draw_batch(images, generator)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(batch).latent_dist.sample(generator)
            decoded = vae.decode(latents).sample.float()
        loss = reconstruction_loss(decoded, batch)
        return loss, {"loss": loss, "mse": (decoded - batch).pow(2).mean()}

    modules = [vae.decoder, vae.post_quant_conv]
    Stage("decoder", modules, num_steps, lr=5e-4, ema_decay=0.999, seed=seed, work_dir=work_dir).run(loss_fn)
    return vae.to(memory_format=torch.contiguous_format)


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: Sequence[np.ndarray] | np.ndarray) -> torch.Tensor:
    """Means of the latents, unscaled, float16 (images, 16, 16, 16)."""
    chunks = []
    for start in tqdm(range(0, len(images), 32), desc="latents", disable=len(images) < 1000):
        batch = to_tensor(images[start : start + 32])
        with torch.autocast("cpu", torch.bfloat16):
            chunks.append(vae.encode(batch).latent_dist.mean.half())
    return torch.cat(chunks)
