"""Where each token of a prompt looks: one attention map per token, begin and end token included.

Layers are chosen by their place (down, mid, up in a UNet, joint and single in a transformer) and by the resolution of
their maps, and averaged over heads and layers, as prompt-to-prompt does (Hertz et al., ICLR 2023). The image is bit for
bit the one that is made unobserved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from attn_utils import AttentionStore, CrossAttentionStore
from memorization.errors import InputError
from memorization.needs import CROSS_ATTENTION

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

PLACES = ("down", "mid", "up", "joint", "single")
PADDING = "padding"  # the tile of all tokens behind the end token together
LARGEST_SELF = 32  # height up to which self-attention is kept, as in prompt-to-prompt: it grows with the fourth power


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


# Layers


class TokenAttention(Protocol):
    """The attention of a family of models for one prompt.

    Attributes:
        labels: what each map of cross-attention is of.
    """

    labels: list[str]

    def places(self, is_self: bool) -> Mapping[str, str]:
        """The place of every layer of cross- or self-attention, by its name."""

    def height(self, name: str, size: int) -> int:
        """Height of a layer's maps, of latents of this height."""

    def store(self, layers: Sequence[str], is_self: bool) -> CrossAttentionStore:
        """What records some layers."""

    def token_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps by label, (labels, height, width), out of what was recorded, averaged."""


class CrossAttention:
    """The cross-attention of a UNet, and its self-attention."""

    def __init__(self, pipe: "DenoisingPipeline", prompt: str):
        self.pipe, self.labels = pipe, token_labels(pipe, prompt)

    def places(self, is_self: bool) -> dict[str, str]:
        ending = f"attn{1 if is_self else 2}.processor"
        return {name: name.split("_", 1)[0] for name in self.pipe.unet.attn_processors if name.endswith(ending)}

    def height(self, name: str, size: int) -> int:
        """Each down block but the last halves it, each up block but the last doubles it."""
        place, blocks = name.split("_", 1)[0], len(self.pipe.unet.config.block_out_channels)
        if place == "mid":
            return size // 2 ** (blocks - 1)
        block = int(name.split(".")[1])
        return size // 2 ** (block if place == "down" else blocks - 1 - block)

    def store(self, layers: Sequence[str], is_self: bool) -> AttentionStore:
        return AttentionStore(layers)

    def token_maps(self, maps: torch.Tensor) -> torch.Tensor:
        return prompt_maps(maps, self.labels)


def token_attention(pipe: "DenoisingPipeline", prompt: str) -> TokenAttention:
    """A UNet's attention, or what a family of transformers has in its place."""
    return pipe.token_attention(prompt) if CROSS_ATTENTION in pipe.lacks else CrossAttention(pipe, prompt)


def attention_layers(attention: TokenAttention, places: Sequence[str], is_self: bool) -> list[str]:
    """Names of the cross- or self-attention layers at some places, at all of them if none is named.

    Raises:
        InputError: if there is no such place, or no layer there.
    """
    unknown = next((place for place in places if place not in PLACES), None)
    if unknown is not None:
        raise InputError(f"place {unknown!r} is none of {', '.join(PLACES)}")
    every = attention.places(is_self)
    chosen = [name for name, place in every.items() if not places or place in places]
    if not chosen:
        there = ", ".join(sorted(set(every.values())))
        raise InputError(f"this model has no such attention at {', '.join(places)}; it has some at {there}")
    return chosen


def choose_layers(
    attention: TokenAttention,
    layers: Sequence[str],
    places: Sequence[str],
    resolutions: Sequence[int],
    is_self: bool,
    size: int,
) -> list[str]:
    """Names of the layers that a call asks for.

    Args:
        layers: parts of names; none takes all.
        resolutions: heights of the maps; none takes all, of self-attention up to `LARGEST_SELF`.
        size: height of the latents.

    Raises:
        InputError: if nothing is left, with what there is.
    """
    named = [n for n in attention_layers(attention, places, is_self) if not layers or any(part in n for part in layers)]
    if not named:
        raise InputError(f"no attention layer at these places has {' or '.join(layers)} in its name")
    heights = {name: attention.height(name, size) for name in named}
    wanted = set(resolutions) or {h for h in heights.values() if not is_self or h <= LARGEST_SELF}
    chosen = [name for name in named if heights[name] in wanted]
    if not chosen or set(resolutions) - set(heights.values()):
        raise InputError(f"no attention of {sorted(wanted)}; these layers have {sorted(set(heights.values()))}")
    return chosen


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


def token_labels(pipe: "DenoisingPipeline", prompt: str) -> list[str]:
    """The text of every token that the prompt has, with begin and end token, and `padding` where there is some."""
    ids, tokenizer = pipe.token_ids(prompt), pipe.tokenizer
    names = {tokenizer.bos_token_id: "<begin>", tokenizer.eos_token_id: "<end>"}
    labels = [names.get(i) or tokenizer.decode([i]).strip() or "?" for i in ids]
    return [*labels, PADDING] if len(ids) < tokenizer.model_max_length else labels


def prompt_maps(maps: torch.Tensor, labels: Sequence[str]) -> torch.Tensor:
    """Maps (all tokens, height, width) of the prompt's tokens, those of the padding added up into one."""
    if labels[-1] != PADDING:
        return maps
    own = len(labels) - 1
    return torch.cat([maps[:own], maps[own:].sum(0, keepdim=True)])


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
    chosen = choose_steps(steps, num_inference_steps)
    latents = pipe.initial_latents([seed])
    names = choose_layers(attention, layers, places, resolutions, is_self, latents.shape[-1])
    text, uncond = pipe.encode([prompt])
    labels = [f"component {k + 1}" for k in range(self_components)] or attention.labels
    found: list[torch.Tensor] = []
    stores = {k: attention.store(names, is_self) for k in chosen}

    def collect(step: "DenoiseStep") -> None:
        if step.index in stores:
            kept = stores[step.index].maps
            maps = list(kept.values())
            joined = components(maps, self_components) if is_self else attention.token_maps(joined_maps(maps))
            found.append(joined.cpu())
            kept.clear()  # a step's maps of every layer are large

    final = pipe.generate(
        latents,
        (uncond, text),
        step_stores=stores,
        callback=collect,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    maps = torch.stack(found).float().numpy()
    return AttentionTiles(tuple(labels), maps, tuple(chosen), tuple(names), pipe.decode(final)[0])
