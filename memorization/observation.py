"""One observed generation: latents out, and on the way the maps that every detection score is made of."""

from dataclasses import dataclass, field

import torch

from attn_utils import AttentionStore, bright_ending_mask, padding_sum, token_column
from memorization.detectors.motion import motion_norms
from noise_norms import noise_diff_map


@dataclass(frozen=True)
class Observation:
    """What one pass over a batch of images leaves behind.

    Attributes:
        latents: final latents, shape (images, channels, height, width).
        diff_maps: channel-summed squares of the noise difference, float32 (steps, images, height, width).
        uncond_norms: norm of the unconditional noise prediction, float32 (images, steps).
        mask: bright-ending mask, float32 (images, 1, height, width), or None when not captured.
        attention: whole-token maps by layer, (images, height * width, tokens), when asked for.
        columns: end-token and padding attention of every layer in `map_layers`, a dict from layer to a pair
            of float32 tensors (images, height, width).
    """

    latents: torch.Tensor
    diff_maps: torch.Tensor
    uncond_norms: torch.Tensor
    mask: torch.Tensor | None
    attention: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)


def observe(
    pipe, latents, embeds, tokens=None, *, layers=(), all_tokens=False, map_layers=(), trace=None, **denoise_kwargs
):  # fmt: skip
    """Generate once and keep the noise-difference maps and the bright-ending mask.

    Args:
        pipe: a `LocalStableDiffusionPipeline`.
        latents: initial noise, shape (images, channels, height, width).
        embeds: text features per branch, uncond first, each (images, tokens, dim).
        tokens: end-token index of every image, int64 (images,).
        layers: attention layers whose mean is the mask; none captures nothing.
        all_tokens: keep the maps of every token of `layers` as well (the original's layout).
        map_layers: layers whose end-token and padding attention is kept as well, for localisation.
        trace: a `generation_trace.Trace`, which sees every step as well.
        **denoise_kwargs: `num_inference_steps` and `guidance` of `pipe.denoise`.

    Returns:
        An `Observation`; tensors stay on the pipeline's device.
    """
    recorded = dict.fromkeys([*layers, *map_layers])
    store = AttentionStore(recorded, None if all_tokens else tokens, padding=bool(map_layers))
    maps, uncond_norms = [], []

    def watch(step):
        maps.append(noise_diff_map(step.noise_diff))
        uncond_norms.append(step.noise_pred_uncond.float().flatten(1).norm(dim=1))
        if trace is not None:
            trace.watch(step, maps[-1])

    final = pipe.generate(
        latents, embeds, store=store if recorded else None, step_stores=trace.stores if trace else None,
        callback=watch, **denoise_kwargs,
    )  # fmt: skip
    columns = {name: end_and_padding(store, name, tokens) for name in recorded}
    ends = [columns[name][0] for name in layers]
    return Observation(
        latents=final,
        diff_maps=torch.stack(maps),
        uncond_norms=torch.stack(uncond_norms, 1),
        mask=bright_ending_mask(ends, latent_size(latents, ends[0])) if layers else None,
        attention={name: store.maps[name] for name in layers} if all_tokens else {},
        columns={n: tuple(c.unflatten(1, latent_size(latents, c)) for c in columns[n]) for n in map_layers},
    )


def end_and_padding(store, name, tokens):
    """The end token's map and, where the store has it, the padding's, each (images, height * width)."""
    maps = store.maps[name]
    if store.tokens is None:
        end = token_column(maps, tokens)
        return (end, padding_sum(maps, tokens)) if store.padding else (end,)
    return tuple(maps.unbind(2)) if store.padding else (maps,)


def latent_size(latents, column):
    """Height and width of an attention map with the latent's aspect ratio."""
    height, width = latents.shape[-2:]
    factor = round((height * width / column.shape[1]) ** 0.5)
    return height // factor, width // factor


FIRST_STEPS = 3  # that are kept


@dataclass
class Trace:
    """What one generation of a batch leaves for the signals.

    Attributes:
        pipe: a `LocalStableDiffusionPipeline`.
        embeds: (uncond, text) features, each (images, tokens, dim).
        tokens: end-token index of every image, int64 (images,).
        seeds: one integer per image.
        num_inference_steps: of the whole run.
        steps: `DenoiseStep` by index, of the first three and the last.
        maps: `metrics.noise_diff_map` of the first step, in a list.
        stores: by step, the `TokenShares` of the steps whose attention is wanted.
        norms: `motion_norms` of each step, a list of dicts; None when nothing reads them.
        found_maps: maps that signals made on the way, (images, height, width) by name.
    """

    pipe: object
    embeds: tuple
    tokens: torch.Tensor
    seeds: list
    num_inference_steps: int
    steps: dict = field(default_factory=dict)
    maps: list = field(default_factory=list)
    stores: dict = field(default_factory=dict)
    norms: list | None = field(default_factory=list)
    found_maps: dict = field(default_factory=dict)
    last_index: int | None = None  # of the latest step beyond the first, which the next one replaces

    def watch(self, step, diff_map):
        """See a step of the generation and keep what the signals read."""
        self.steps.pop(self.last_index, None)
        self.last_index = step.index if step.index >= FIRST_STEPS else None
        self.steps[step.index] = step
        self.maps = self.maps or [diff_map]
        if self.norms is not None:
            self.norms.append(motion_norms(self.pipe, step))

    @property
    def last(self):
        return self.steps[max(self.steps)]


def token_groups(trace, like):
    """Which token is of which group: dict of bool (images, tokens)."""
    place = torch.arange(like.shape[1], device=like.device)[None]
    end = trace.tokens.to(like.device)[:, None]
    return {"bos": place == 0, "words": (place > 0) & (place < end), "end": place == end, "padding": place > end}


def late_steps(num_inference_steps):
    """Indices of the last fifth of the steps, at least one."""
    return range(num_inference_steps - max(1, num_inference_steps // 5), num_inference_steps)


def chunked(tensors, size):
    """Split tensors of equal length, given as a dict, into dicts of at most `size` rows."""
    length = len(next(iter(tensors.values())))
    return [{k: v[i : i + size] for k, v in tensors.items()} for i in range(0, length, size)]
