"""One observed generation: latents out, and on the way the maps that every detection score is made of."""

from dataclasses import dataclass, field

import torch

from attn_utils import AttentionStore
from metrics import bright_ending_mask, noise_diff_map


@dataclass(frozen=True)
class Observation:
    """What one pass over a batch of images leaves behind.

    Attributes:
        latents: final latents, shape (images, channels, height, width).
        diff_maps: channel-summed squares of the noise difference, float32 (steps, images, height, width).
        uncond_norms: norm of the unconditional noise prediction, float32 (images, steps).
        mask: bright-ending mask, float32 (images, 1, height, width), or None when not captured.
        attention: whole-token maps by layer, (images, height * width, tokens), when asked for.
    """

    latents: torch.Tensor
    diff_maps: torch.Tensor
    uncond_norms: torch.Tensor
    mask: torch.Tensor | None
    attention: dict = field(default_factory=dict)


def observe(pipe, latents, embeds, tokens=None, *, layers=(), all_tokens=False, **denoise_kwargs):
    """Generate once and keep the noise-difference maps and the bright-ending mask.

    Args:
        pipe: a `LocalStableDiffusionPipeline`.
        latents: initial noise, shape (images, channels, height, width).
        embeds: text features per branch, uncond first, each (images, tokens, dim).
        tokens: end-token index of every image, int64 (images,).
        layers: attention layers whose mean is the mask; none captures nothing.
        all_tokens: keep the maps of every token as well (the original's layout).
        **denoise_kwargs: `num_inference_steps` and `guidance` of `pipe.denoise`.

    Returns:
        An `Observation`; tensors stay on the pipeline's device.
    """
    store = AttentionStore(layers, None if all_tokens else tokens)
    maps, uncond_norms = [], []

    def watch(step):
        maps.append(noise_diff_map(step.noise_diff))
        uncond_norms.append(step.noise_pred_uncond.float().flatten(1).norm(dim=1))

    final = pipe.generate(latents, embeds, store=store if layers else None, callback=watch, **denoise_kwargs)
    columns = [end_token_column(store.maps[name], tokens, all_tokens) for name in layers]
    return Observation(
        latents=final,
        diff_maps=torch.stack(maps),
        uncond_norms=torch.stack(uncond_norms, 1),
        mask=bright_ending_mask(columns, latent_size(latents, columns[0])) if layers else None,
        attention=dict(store.maps) if all_tokens else {},
    )


def end_token_column(maps, tokens, all_tokens):
    """The end token's map, (images, height * width), out of what the store kept."""
    if not all_tokens:
        return maps
    index = tokens.to(maps.device).view(-1, 1, 1).expand(-1, maps.shape[1], 1)
    return maps.gather(2, index).squeeze(2)


def latent_size(latents, column):
    """Height and width of an attention map with the latent's aspect ratio."""
    height, width = latents.shape[-2:]
    factor = round((height * width / column.shape[1]) ** 0.5)
    return height // factor, width // factor
