"""The autoencoder of a planted world: Stable Diffusion's in kind, a few per cent of its size.

It halves a picture of 128 px three times, to 16 x 16 latents, so that a UNet costs what it would at 64 px while the
copies stay sharp enough for the descriptors that the field judges copies by. It is trained with sixteen channels, which
is easier than with few, and ends with the few that pictures turn out to need, in one scale (`condense`).
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

WIDE_CHANNELS, LATENT_CHANNELS = 16, 4  # of the latents while training, and in the end
BATCH = 8
KL_WEIGHT = 1e-6
NUM_MEASURED = 1000  # pictures that the directions of the latents are measured on
TERMINAL_SNR = 0.00468  # of Stable Diffusion's noise schedule at its last timestep
LARGEST_MEAN_SNR = 0.25  # of the mean over a picture there


def make_vae(latent_channels: int = LATENT_CHANNELS) -> AutoencoderKL:
    """AutoencoderKL from (3, 128, 128) to (channels, 16, 16); no attention, so that it is a plain convolution."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96, 128),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=latent_channels,
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
    """Train on pictures, uint8 (pictures, 128, 128, 3), in bfloat16 where the weights are multiplied; then condense.

    Args:
        start_from: an autoencoder of other pictures, which saves most of the steps.
    """
    torch.manual_seed(seed)
    wide = WIDE_CHANNELS if start_from is None else start_from.config.latent_channels
    vae = make_vae(wide).to(memory_format=torch.channels_last)
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
    some = images[:: max(1, len(images) // NUM_MEASURED)]
    return condense(vae.to(memory_format=torch.contiguous_format), some)


@torch.no_grad()
def condense(vae: AutoencoderKL, images: Sequence[np.ndarray] | np.ndarray) -> AutoencoderKL:
    """The same autoencoder with the few latent channels that pictures need, uncorrelated and in one scale.

    Latents are turned to the principal directions of what pictures have there; all but the largest are left out. A
    trained encoder spreads a few directions over its channels, the strongest with several times the variance of the
    others, and that one mostly constant over a picture. Such a mean shows through the noise at every timestep, so that
    a UNet reads it off there and not out of the caption, and what starts from pure noise comes out in middling colours
    (Lin et al., WACV 2024, on Stable Diffusion's). So each channel has variance one, or less where the mean over a
    picture would be more than half as strong as the noise's at the last timestep. The posterior gets one variance for
    all pictures.

    Args:
        images: uint8 (pictures, 128, 128, 3), to measure the directions on.
    """
    batches = [vae.encode(to_tensor(images[k : k + 32])).latent_dist for k in range(0, len(images), 32)]
    means = torch.cat([b.mean for b in batches]).permute(1, 0, 2, 3).flatten(1).double()
    spread = torch.cat([b.var for b in batches]).double().mean((0, 2, 3))
    center = means.mean(1)
    values, directions = torch.linalg.eigh(torch.cov(means))
    directions, scale = directions[:, -LATENT_CHANNELS:], values[-LATENT_CHANNELS:].sqrt()
    positions = means.shape[1] // len(images)
    picture_means = (directions.T / scale[:, None] @ (means - center[:, None])).unflatten(1, (-1, positions)).mean(2)
    mean_snr = picture_means.var(1) * TERMINAL_SNR * positions
    scale = scale * (mean_snr / LARGEST_MEAN_SNR).sqrt().clamp(min=1)
    narrow, widen = directions.T / scale[:, None], directions * scale
    small = make_vae()
    for part in ("encoder", "decoder"):
        own = getattr(small, part)
        kept = {k: v for k, v in getattr(vae, part).state_dict().items() if v.shape == own.state_dict()[k].shape}
        own.load_state_dict(kept, strict=False)
    narrow_encoder(vae, small, narrow, center, (narrow.square() @ spread).log())
    narrow_decoder(vae, small, widen, center)
    small.register_to_config(scaling_factor=1.0)
    return small.eval().requires_grad_(False)


def narrow_encoder(
    vae: AutoencoderKL, small: AutoencoderKL, narrow: torch.Tensor, center: torch.Tensor, logvar: torch.Tensor
) -> None:
    """The last two convolutions of the encoder and the change of basis as one; the second becomes the identity.

    Args:
        narrow: from wide latents to few, (few, wide).
        center: mean of the wide latents, (wide,).
        logvar: of the posterior, (few,).
    """
    count, wide = narrow.shape
    mix, shift = vae.quant_conv.weight[:wide, :, 0, 0].double(), vae.quant_conv.bias[:wide].double()
    last = vae.encoder.conv_out
    weight = torch.einsum("nw,wc,cijk->nijk", narrow, mix, last.weight.double())
    bias = narrow @ (mix @ last.bias.double() + shift - center)
    own = small.encoder.conv_out
    own.weight.copy_(torch.cat([weight, torch.zeros_like(weight)]))
    own.bias.copy_(torch.cat([bias, logvar]))
    set_to_identity(small.quant_conv)


def narrow_decoder(vae: AutoencoderKL, small: AutoencoderKL, widen: torch.Tensor, center: torch.Tensor) -> None:
    """The first two convolutions of the decoder and the change of basis: the first keeps what shifts the latents.

    What of the shift is in none of the kept directions goes into the bias of the second, which is exact but for the
    border; training the decoder on mends it there.

    Args:
        widen: from few latents to wide ones, (wide, few).
        center: mean of the wide latents, (wide,).
    """
    mix, shift = vae.post_quant_conv.weight[:, :, 0, 0].double(), vae.post_quant_conv.bias.double()
    first, own = vae.decoder.conv_in, small.decoder.conv_in
    basis, offset = mix @ widen, mix @ center + shift
    within = torch.linalg.lstsq(basis, offset[:, None]).solution[:, 0]
    own.weight.copy_(torch.einsum("ocij,cn->onij", first.weight.double(), basis))
    own.bias.copy_(first.bias.double() + first.weight.double().sum((2, 3)) @ (offset - basis @ within))
    set_to_identity(small.post_quant_conv)
    small.post_quant_conv.bias.copy_(within)


def set_to_identity(conv: torch.nn.Conv2d) -> None:
    conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
    conv.bias.zero_()


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
