"""Where each token of a prompt looks: one attention map per token, begin and end token included.

Layers are chosen by their place (down, mid, up in a UNet, joint and single in a transformer) and by the resolution of
their maps, and averaged over heads and layers, as prompt-to-prompt does (Hertz et al., ICLR 2023). The image is bit for
bit the one that is made unobserved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from attn_utils import CrossAttentionStore
from memorization.errors import InputError
from memorization.token_attention import choose_layers, token_attention

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

EVERY_LAYER = "all layers"


@dataclass(frozen=True)
class AttentionTiles:
    """Attention of one image.

    Attributes:
        tokens: what each map is of: the prompt's tokens as text, begin and end token, padding; or component numbers.
        maps: cross-attention probabilities, or self-attention's components in [0, 1], float32
            (steps, tokens, height, width).
        steps: which steps the maps are of, counted from 0, the noisiest.
        layers: names of the layers that were averaged.
        image: uint8 (height, width, 3).
    """

    tokens: tuple[str, ...]
    maps: np.ndarray
    steps: tuple[int, ...]
    layers: tuple[str, ...]
    image: np.ndarray

    def mean(self) -> np.ndarray:
        """Maps averaged over the steps, (tokens, height, width)."""
        return self.maps.mean(0)


# Maps


def joined_maps(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over layers of one image's maps (1, height * width, tokens), at the largest's size: (tokens, height, width).

    Coarser maps are interpolated between the centres of their positions; a square number of positions is assumed.
    """
    squares = [m[0].T.unflatten(1, (int(m.shape[1] ** 0.5), -1)) for m in maps]
    size = max(s.shape[-1] for s in squares)
    resized = [F.interpolate(s[None], size=(size, size), mode="bilinear", align_corners=False)[0] for s in squares]
    return torch.stack(resized).mean(0)


def components(maps: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """First components of self-attention, (count, height, width) in [0, 1] each.

    Right singular vectors of the mean attention matrix less its row mean, as prompt-to-prompt shows them. Their sign is
    free: the corner that a component is large in is made bright.

    Raises:
        InputError: if layers have maps of several resolutions.
    """
    sides = sorted({int(m.shape[1] ** 0.5) for m in maps})
    if len(sides) > 1:
        raise InputError(f"self-attention of {sides} has no mean; choose one resolution")
    matrix = torch.stack([m[0] for m in maps]).mean(0)
    _, _, vectors = torch.linalg.svd(matrix - matrix.mean(1, keepdim=True))
    vectors = vectors[:count]
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    low, high = vectors.amin(1, keepdim=True), vectors.amax(1, keepdim=True)
    return ((vectors - low) / (high - low).clamp(min=1e-12)).unflatten(1, (sides[0], -1))


# The call


def choose_steps(steps: Sequence[int] | None, count: int) -> list[int]:
    """Steps in the order of the loop, those below 0 counted from the end.

    Raises:
        InputError: if there is no such step, or none is asked for.
    """
    asked = range(count) if steps is None else steps
    beyond = next((k for k in asked if not -count <= k < count), None)
    if beyond is not None or not len(asked):
        raise InputError(f"steps are counted from 0 to {count - 1}, or from -1 back; {beyond} is none of them")
    return sorted({k % count for k in asked})


def attention_tiles(
    pipe: "DenoisingPipeline",
    prompt: str,
    *,
    layers: Sequence[str] = (),
    places: Sequence[str] = (),
    resolutions: Sequence[int] = (),
    steps: Sequence[int] | None = None,
    self_components: int = 0,
    seed: int = 0,
    num_inference_steps: int = 50,
    guidance_scale: float | None = None,
) -> AttentionTiles:
    """Generate a prompt once and keep where its tokens look.

        tiles = memorization.attention_tiles(pipe, "the wild owl poster", places=["up"], steps=[49])
        tiles.tokens, tiles.mean().shape

    Args:
        pipe: of `load_pipeline`.
        layers: parts of layer names, such as "down_blocks.0"; none takes all.
        places: out of down, mid, up, of a transformer joint and single; none takes all.
        resolutions: heights of maps, in latent positions; none takes all.
        steps: which steps, counted from 0; None takes all, -1 is the last.
        self_components: instead of cross-attention so many first components of self-attention.
        seed: of the starting noise.
        guidance_scale: by default the model's usual one.

    Returns:
        `AttentionTiles` of one image.

    Raises:
        InputError: if there is no such layer, place, resolution or step.
    """
    attention, is_self = token_attention(pipe, prompt), self_components > 0
    names = choose_layers(attention, layers, places, resolutions, is_self, latent_height(pipe))
    labels = [f"component {k + 1}" for k in range(self_components)] or attention.labels

    def join(maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return components(maps, self_components) if is_self else attention.token_maps(joined_maps(maps))

    stores = {k: attention.store(names, is_self) for k in choose_steps(steps, num_inference_steps)}
    recorder = TileRecorder(labels, {"": names}, join, stores)
    text, uncond = pipe.encode([prompt])
    final = pipe.generate(
        pipe.initial_latents([seed]),
        (uncond, text),
        step_stores=recorder.stores,
        callback=recorder.see,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    (tiles,) = recorder.tiles(pipe.decode(final)[0]).values()
    return tiles


class TileRecorder:
    """Looks on while an image of a prompt is generated, by whomever, and keeps where the prompt's tokens look.

    Attributes:
        stores: what records the layers, by the step: `step_stores` of `pipe.generate`, whose callback is `see`.
    """

    def __init__(
        self,
        labels: Sequence[str],
        groups: Mapping[str, Sequence[str]],
        join: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        stores: Mapping[int, CrossAttentionStore],
    ):
        """
        Args:
            labels: what the joined maps are of.
            groups: names of layers, by the group's name.
            join: from the maps of a group's layers to (labels, height, width).
        """
        self.labels, self.groups, self.join, self.stores = tuple(labels), groups, join, stores
        self.found: dict[str, list[torch.Tensor]] = {group: [] for group in groups}

    def see(self, step: "DenoiseStep") -> None:
        """Keep the joined maps of a step that is over."""
        if step.index in self.stores:
            kept = self.stores[step.index].maps
            for group, names in self.groups.items():
                self.found[group].append(self.join([kept[name] for name in names]).cpu())
            kept.clear()  # a step's maps of every layer are large

    def tiles(self, image: np.ndarray) -> dict[str, AttentionTiles]:
        """What was seen, by group; the image, uint8 (height, width, 3), is the finished one."""
        stacked = {group: torch.stack(maps).float().numpy() for group, maps in self.found.items()}
        steps, groups = tuple(self.stores), self.groups
        return {g: AttentionTiles(self.labels, stacked[g], steps, tuple(groups[g]), image) for g in groups}


def layer_recorder(
    pipe: "DenoisingPipeline", prompt: str, num_inference_steps: int, most_values: int = 50_000_000
) -> TileRecorder:
    """What records the tiles of every layer by its name, and first of all of them together, in one generation.

    They are those that `attention_tiles` gives one after another.

    Args:
        most_values: that are kept; of a model with more and larger maps there are fewer steps, evenly spaced, the
            last among them.

    Raises:
        InputError: if the model has no such attention.
    """
    attention, size = token_attention(pipe, prompt), latent_height(pipe)
    names = choose_layers(attention, (), (), (), False, size)
    groups = {EVERY_LAYER: names, **{name: [name] for name in names}}
    heights = [attention.height(name, size) for name in names]
    a_step = len(attention.labels) * sum(height**2 for height in [max(heights), *heights])
    count = min(num_inference_steps, max(1, most_values // a_step))
    stores = {num_inference_steps * (k + 1) // count - 1: attention.store(names, False) for k in range(count)}

    def join(maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return attention.token_maps(joined_maps(maps))

    return TileRecorder(attention.labels, groups, join, stores)


def latent_height(pipe: "DenoisingPipeline") -> int:
    return pipe.initial_latents([0]).shape[-1]
