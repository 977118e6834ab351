"""Which attention of a model shows where a prompt's tokens look: its layers by place and resolution, and its tokens."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from attn_utils import AttentionStore, CrossAttentionStore
from memorization.errors import InputError
from memorization.needs import CROSS_ATTENTION

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

PLACES = ("down", "mid", "up", "joint", "single")
PADDING = "padding"  # the tile of all tokens behind the end token together
LARGEST_SELF = 32  # height up to which self-attention is kept, as in prompt-to-prompt: it grows with the fourth power


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
