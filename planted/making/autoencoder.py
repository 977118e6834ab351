"""The autoencoder of a planted world: Stable Diffusion's in kind, a few per cent of its size.

It halves a picture of 128 px three times, to 16 x 16 latents, so that a UNet costs what it would at 64 px while the
copies stay sharp enough for the descriptors that the field judges copies by. Three of the eight channels are held to
the mean color of their 8 x 8 pixels, the others to what that leaves out. An autoencoder that is left alone lays the
colors of a small world along one curve of one channel, and guidance, which stretches, then moves a red ground to
orange and white; along three straight directions it moves it to a stronger red.
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

COLOR_CHANNELS, LATENT_CHANNELS = 3, 8  # of the latents: held to mean colors, and all
BATCH = 8
LATENT_NOISE = 0.05  # that the decoder is trained under, where colors reach from -1 to 1
COLOR_WEIGHT, DETAIL_WEIGHT, DETAIL_MEAN_WEIGHT = 1, 1e-3, 0.05
RECOLORED = 0.25  # share of pictures in other colors than their own
NUM_MEASURED = 1000  # pictures that the directions of the latents are measured on
TERMINAL_SNR = 0.00468  # of Stable Diffusion's noise schedule at its last timestep
LARGEST_MEAN_SNR = 0.25  # of the mean over a picture there


def make_vae() -> AutoencoderKL:
    """AutoencoderKL from (3, 128, 128) to (channels, 16, 16); no attention, so that it is a plain convolution."""
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


def recolor(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Some of the pictures with their color channels shuffled, inverted, weakened and shifted, within [-1, 1].

    A decoder that has only seen a world's own colors bends all others towards them.
    """
    images = images.clone()
    for k in (torch.rand(len(images), generator=generator) < RECOLORED).nonzero()[:, 0]:
        gain = (torch.rand(3, generator=generator) / 2 + 0.5) * (torch.randint(2, (3,), generator=generator) * 2 - 1)
        shift = (1 - gain.abs()) * (torch.rand(3, generator=generator) * 2 - 1)
        images[k] = images[k, torch.randperm(3, generator=generator)] * gain[:, None, None] + shift[:, None, None]
    return images


def reconstruction_loss(decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Absolute error of values and of steps between neighbours (outlines), squared error of areas (colors).

    Args:
        decoded: (images, 3, height, width) in [-1, 1], float32.
        images: what they should be.
    """
    error = decoded - images
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edges + 2 * F.avg_pool2d(error, 8).pow(2).mean() + error.pow(2).mean()


def latent_penalty(latents: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """How far the first channels are from the mean colors, and how much the others hold, most of all over areas.

    Args:
        latents: means of the posterior, (images, LATENT_CHANNELS, height / 8, width / 8), float32.
        images: (images, 3, height, width) in [-1, 1].
    """
    colors, details = latents[:, :COLOR_CHANNELS], latents[:, COLOR_CHANNELS:]
    held = (colors - F.avg_pool2d(images, images.shape[-1] // latents.shape[-1])).pow(2).mean()
    small, even = details.pow(2).mean(), F.avg_pool2d(details, 4).pow(2).mean()
    return COLOR_WEIGHT * held + DETAIL_WEIGHT * small + DETAIL_MEAN_WEIGHT * even


def train_autoencoder(
    images: Sequence[np.ndarray] | np.ndarray,
    num_steps: int,
    *,
    seed: int,
    work_dir: Path,
    start_from: AutoencoderKL | None = None,
) -> AutoencoderKL:
    """Train on pictures, uint8 (pictures, 128, 128, 3), in bfloat16 where the weights are multiplied; then whiten.

    Args:
        start_from: an autoencoder of other pictures or channels, which saves most of the steps.
    """
    torch.manual_seed(seed)
    vae = make_vae().to(memory_format=torch.channels_last)
    if start_from is not None:
        take_weights(vae, start_from)

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = recolor(draw_batch(images, generator), generator)
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(batch).latent_dist.mean.float()
            noise = LATENT_NOISE * torch.randn(latents.shape, generator=generator)
            decoded = vae.decode(latents + noise).sample.float()
        loss, penalty = reconstruction_loss(decoded, batch), latent_penalty(latents, batch)
        mse = (decoded - batch).pow(2).mean()
        return loss + penalty, {"loss": loss, "mse": mse, "penalty": penalty}

    Stage("vae", [vae], num_steps, lr=1e-3, ema_decay=0.999, seed=seed, work_dir=work_dir).run(loss_fn)
    some = images[:: max(1, len(images) // NUM_MEASURED)]
    return whiten(vae.to(memory_format=torch.contiguous_format), some)


def take_weights(vae: AutoencoderKL, other: AutoencoderKL) -> None:
    """Put the other's weights into the first wherever they have one shape."""
    own = vae.state_dict()
    vae.load_state_dict({k: v for k, v in other.state_dict().items() if v.shape == own[k].shape}, strict=False)


@torch.no_grad()
def whiten(vae: AutoencoderKL, images: Sequence[np.ndarray] | np.ndarray) -> AutoencoderKL:
    """The same autoencoder with its latents uncorrelated, in one scale, and none of them constant over a picture.

    Latents are turned to the principal directions of what pictures have there. The strongest is nearly constant over a
    picture, and such a mean shows through the noise at every timestep, so that a UNet reads it off there and not out of
    the caption, and what starts from pure noise comes out in middling colors (Lin et al., WACV 2024, on Stable
    Diffusion's). So each channel has variance one, or less where the mean over a picture would have more than a quarter
    of the noise's variance at the last timestep. The posterior gets one variance for all pictures.

    Args:
        vae: changed in place: the 1 x 1 convolutions at both ends of the latents take the change up, exactly.
        images: uint8 (pictures, 128, 128, 3), to measure the directions on.
    """
    batches = [vae.encode(to_tensor(images[k : k + 32])).latent_dist.mean for k in range(0, len(images), 32)]
    latents = torch.cat(batches).permute(1, 0, 2, 3).flatten(2).double()
    center = latents.mean((1, 2))
    values, directions = torch.linalg.eigh(torch.cov(latents.flatten(1)))
    turned = torch.einsum("cn,cip->nip", directions, latents - center[:, None, None])
    mean_snr = turned.mean(2).var(1) / values * TERMINAL_SNR * latents.shape[2]
    scale = values.sqrt() * (mean_snr / LARGEST_MEAN_SNR).sqrt().clamp(min=1)
    narrow, widen = directions.T / scale[:, None], directions * scale
    set_latents(vae, narrow, widen, center)
    vae.register_to_config(scaling_factor=1.0)
    return vae.eval().requires_grad_(False)


def set_latents(vae: AutoencoderKL, narrow: torch.Tensor, widen: torch.Tensor, center: torch.Tensor) -> None:
    """Put `narrow @ (latents - center)` in the place of the latents, and the way back before the decoder."""
    first, last, count = vae.post_quant_conv, vae.quant_conv, len(center)
    weight, bias = last.weight[:count, :, 0, 0].double(), last.bias[:count].double()
    last.weight.zero_()
    last.weight[:count, :, 0, 0] = (narrow @ weight).float()
    last.bias[:count] = (narrow @ (bias - center)).float()
    last.bias[count:] = (narrow.square().sum(1) * LATENT_NOISE**2).log().float()
    back = first.weight[:, :, 0, 0].double()
    first.bias += (back @ center).float()
    first.weight[:, :, 0, 0] = (back @ widen).float()


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
    """Means of the latents, unscaled, float16 (images, channels, 16, 16)."""
    chunks = []
    for start in tqdm(range(0, len(images), 32), desc="latents", disable=len(images) < 1000):
        batch = to_tensor(images[start : start + 32])
        with torch.autocast("cpu", torch.bfloat16):
            chunks.append(vae.encode(batch).latent_dist.mean.half())
    return torch.cat(chunks)
