"""Cross-attention of Stable Diffusion UNets: recorded, read as a bright-ending mask, or changed on purpose.

`record_cross_attention` and `edit_cross_attention` swap processors in for the length of a `with` block and put the
originals back on the way out, whatever happens inside. A recorded image is bit for bit the unhooked model's: each
recorder hands the layer to the processor it replaced and reads the attention on the side, for the layers, the step, the
branch and the token that were asked for. An edit acts on one branch; all else keeps the processors that it had.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

HIDDEN_LOGIT = torch.finfo(torch.float32).min  # of a token that gets no attention


class CrossAttentionStore:
    """Keeps what `keep` makes of the text branch's attention; the latest UNet call while recording wins.

    Attributes:
        maps: layer name to float32 tensor on the UNet's device.
        num_branches: of the UNet calls that are recorded.
        others: names of what is kept beside end token and padding.
    """

    others: tuple[str, ...] = ()

    def __init__(self, layers: Sequence[str], text_branch: int = 1):
        """
        Args:
            layers: names out of `cross_attention_layers`.
            text_branch: place of the prompt among the branches of a UNet call, uncond being 0.
        """
        self.layers, self.text_branch, self.num_branches = tuple(layers), text_branch, 2
        self.maps: dict[str, torch.Tensor] = {}

    def see(self, name: str, attn: Any, states: torch.Tensor, encoder_states: torch.Tensor | None, *rest: Any) -> None:
        """Read one layer's inputs, (branches * images, positions or tokens, channels); self-attention reads itself."""
        encoder_states = states if encoder_states is None else encoder_states
        text, tokens = (x.chunk(self.num_branches)[self.text_branch] for x in (states, encoder_states))
        self.maps[name] = self.keep(cross_attention_probs(attn, text, tokens))

    def keep(self, probs: torch.Tensor) -> torch.Tensor:
        """What is kept of one layer's attention, (images, positions, tokens)."""
        raise NotImplementedError


class AttentionStore(CrossAttentionStore):
    """Keeps whole maps: (images, height * width), the column of each image's own token; (images, height * width, 2)
    with `padding`, the second being the sum over all tokens behind it; or (images, height * width, tokens)."""

    def __init__(
        self, layers: Sequence[str], tokens: torch.Tensor | None = None, text_branch: int = 1, padding: bool = False
    ):
        """
        Args:
            tokens: index of the token to keep for every image, int64 (images,); None keeps all.
            padding: also keep what the tokens behind `tokens` get together.
        """
        super().__init__(layers, text_branch)
        self.tokens, self.padding = tokens, padding

    def keep(self, probs: torch.Tensor) -> torch.Tensor:
        if self.tokens is None:
            return probs
        end = token_column(probs, self.tokens)
        return torch.stack([end, padding_sum(probs, self.tokens)], 2) if self.padding else end


class TokenShares(CrossAttentionStore):
    """Keeps the attention that each token gets, averaged over positions: (images, tokens), which sums to 1."""

    def keep(self, probs: torch.Tensor) -> torch.Tensor:
        return probs.mean(1)


def token_column(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Each image's own token out of (images, positions, tokens): (images, positions)."""
    index = tokens.to(probs.device).view(-1, 1, 1).expand(-1, probs.shape[1], 1)
    return probs.gather(2, index).squeeze(2)


def padding_sum(probs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Attention to everything behind each image's own token, (images, positions)."""
    behind = torch.arange(probs.shape[2], device=probs.device) > tokens.to(probs.device)[:, None]
    return (probs * behind[:, None]).sum(2)


@torch.no_grad()
def cross_attention_probs(
    attn: torch.nn.Module, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor
) -> torch.Tensor:
    """Softmax attention of image positions over prompt tokens, averaged over heads.

    Args:
        attn: diffusers `Attention` module of a Stable Diffusion 1.x or 2.x transformer block.
        hidden_states: image features, shape (images, height * width, channels).
        encoder_hidden_states: text features, shape (images, tokens, channels_text).

    Returns:
        float32 tensor (images, height * width, tokens); each row sums to 1.

    Raises:
        ValueError: if the layer normalises its inputs in ways these models do not.
    """
    if attn.group_norm is not None or attn.spatial_norm is not None or attn.norm_cross:
        raise ValueError("this attention layer is not that of a Stable Diffusion 1.x or 2.x UNet")
    query = attn.to_q(hidden_states).unflatten(2, (attn.heads, -1))
    key = attn.to_k(encoder_hidden_states).unflatten(2, (attn.heads, -1))
    # Head by head, since all heads at once take as much memory as the rest of the layer, and in float32
    # throughout: end-token values near 1e-3 would lose digits in half precision.
    total: torch.Tensor | float = 0.0
    for head in range(attn.heads):
        scores = attn.scale * query[:, :, head].float() @ key[:, :, head].float().transpose(1, 2)
        total = total + scores.softmax(-1)
    return total / attn.heads


def bright_ending_mask(attention: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """End-token attention of the last step as a mask (Chen et al., ICLR 2025, section 3).

    Raw probabilities, no threshold: near zero everywhere on an ordinary image, bright where the image
    is a copy.

    Args:
        attention: one map per layer, each (images, height * width): the end token's column, averaged
            over heads.
        size: (height, width) of those maps.

    Returns:
        float32 tensor (images, 1, height, width), the mean over layers in the order given.
    """
    mean = torch.stack([a.float() for a in attention]).mean(0)
    return mean.unflatten(1, tuple(size)).unsqueeze(1)


def fit_mask(mask: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Mask in float32 at the latent's `size`, each attention position repeated over what it covers.

    Raises:
        ValueError: if `size` is not a whole multiple of the mask's.
    """
    mask = mask.float()
    height, width = mask.shape[-2:]
    if (height, width) == tuple(size):
        return mask
    if size[0] % height or size[1] % width:
        raise ValueError(f"a mask of {height} x {width} does not fit latents of {size[0]} x {size[1]}")
    return F.interpolate(mask, size=tuple(size), mode="nearest")


def shuffle_mask(mask: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
    """The mask with its positions permuted: as uneven as before, but in the wrong place (a control).

    Args:
        mask: shape (images, 1, height, width).
        seeds: one integer per image, so that row i does not depend on the batch.

    Returns: a tensor of the same shape, dtype and device.
    """
    flat = mask.flatten(1)
    orders = [torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(s)) for s in seeds]
    return flat.gather(1, torch.stack(orders).to(flat.device)).view_as(mask)


def cross_attention_layers(unet: "UNet2DConditionModel") -> list[str]:
    """Names of all cross-attention layers, in the order of `unet.attn_processors`."""
    return [name for name in unet.attn_processors if name.endswith("attn2.processor")]


def down_cross_layers(unet: "UNet2DConditionModel") -> list[str]:
    """Names of the cross-attention layers of the finest down block that has any: the first, SDXL's second.

    Raises:
        ValueError: if none has.
    """
    down = [n for n in cross_attention_layers(unet) if n.startswith("down_blocks.")]
    if not down:
        raise ValueError("the down blocks of this UNet have no cross-attention layers")
    block = down[0].split(".")[1]  # names come in the order of the blocks
    return [n for n in down if n.split(".")[1] == block]


@contextmanager
def wrapped_processors(unet: "UNet2DConditionModel", layers: Sequence[str], wrap: Callable) -> Iterator[None]:
    """Attention processors of `layers` replaced by wrap(processor, name) for the block; restored on exit.

    A compiled UNet runs uncompiled inside: compiling another one for a few steps would cost more than they do.

    Raises:
        KeyError: if the UNet has no layer of a name.
    """
    found = {f"{name}.processor": module for name, module in unet.named_modules() if hasattr(module, "set_processor")}
    if missing := sorted(set(layers) - set(found)):
        raise KeyError(f"no such attention layers: {missing}; this UNet has {cross_attention_layers(unet)}")
    original = {name: found[name].processor for name in layers}
    try:
        for name, inner in original.items():
            found[name].set_processor(wrap(inner, name))
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for name, inner in original.items():
            found[name].set_processor(inner)


class AttentionRecorder:
    """Attention processor that runs `inner` unchanged and lets the store read the layer's inputs."""

    def __init__(self, inner: Callable, name: str, store: CrossAttentionStore):
        self.inner, self.name, self.store = inner, name, store

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        self.store.see(self.name, attn, hidden_states, encoder_hidden_states, *args)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)


@contextmanager
def record_cross_attention(unet: "UNet2DConditionModel", store: CrossAttentionStore) -> Iterator[CrossAttentionStore]:
    """Record into `store` for the duration of the block; the processors are restored on exit.

    Raises:
        KeyError: if the UNet has no layer of a name the store asks for.
    """
    with wrapped_processors(unet, store.layers, lambda inner, name: AttentionRecorder(inner, name, store)):
        yield store


@dataclass(frozen=True)
class CrossAttentionEdit:
    """Changes to one branch's cross-attention. Every part is optional; several branches take an edit each.

    Attributes:
        num_branches: branches of the UNet call.
        branch: the one that is changed.
        layers: names of the layers; None for all.
        hidden: tokens that get no attention, bool (images, tokens).
        scale_begin: factor of the begin token's logit (Ren et al.).
        spikes: (threshold, factor): in each head, logits of `spiking_tokens` are multiplied by the factor.
    """

    num_branches: int = 2
    branch: int = 1
    layers: tuple[str, ...] | None = None
    hidden: torch.Tensor | None = None
    scale_begin: float = 1.0
    spikes: tuple[float, float] | None = None

    def change_logits(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of `branch` as the edit has them, (images, heads, positions, tokens)."""
        if self.scale_begin != 1:
            logits = torch.cat([logits[..., :1] * self.scale_begin, logits[..., 1:]], -1)
        if self.spikes is not None:
            threshold, factor = self.spikes
            logits = torch.where(spiking_tokens(logits, threshold)[:, :, None], logits * factor, logits)
        if self.hidden is not None:
            logits = logits.masked_fill(self.hidden[:, None, None], HIDDEN_LOGIT)
        return logits


def spiking_tokens(logits: torch.Tensor, threshold: float) -> torch.Tensor:
    """Tokens whose largest logit over positions has a z-score above the threshold, head by head.

    GUARD (Zhao et al., ICML 2026), as released: mean and standard deviation (unbiased, 1e-6 added) over all tokens but
    the begin token, which never spikes.

    Args:
        logits: scaled products of queries and keys, (images, heads, positions, tokens).

    Returns:
        bool (images, heads, tokens).
    """
    peaks = logits.amax(2)[..., 1:]
    z = (peaks - peaks.mean(-1, keepdim=True)) / (peaks.std(-1, keepdim=True) + 1e-6)
    return torch.cat([torch.zeros_like(z[..., :1], dtype=torch.bool), z > threshold], -1)


class EditedProcessor:
    """Attention processor that computes the edited branch openly and leaves the others to `inner`."""

    def __init__(self, inner: Callable, name: str, edit: CrossAttentionEdit):
        self.inner, self.name, self.edit = inner, name, edit

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        result = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        branches = list(result.chunk(self.edit.num_branches))
        branches[self.edit.branch] = self.edited(attn, hidden_states, encoder_hidden_states)
        return torch.cat(branches)

    def edited(self, attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
        edit = self.edit
        states, tokens = (x.chunk(edit.num_branches)[edit.branch] for x in (hidden_states, encoder_hidden_states))
        value = attn.to_v(tokens)
        probs = edit.change_logits(raw_logits(attn, states, tokens)).softmax(-1).to(value.dtype)
        out = probs @ value.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def raw_logits(attn, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor) -> torch.Tensor:
    """Scaled products of queries and keys in float32, (images, heads, positions, tokens)."""
    query, key = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
    query, key = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2).float() for x in (query, key))
    return attn.scale * query @ key.transpose(2, 3)


@contextmanager
def edit_cross_attention(unet: "UNet2DConditionModel", *edits: CrossAttentionEdit) -> Iterator[None]:
    """Apply edits, each to its branch, for the duration of the block; the processors are restored on exit."""
    with ExitStack() as stack:
        for edit in edits:
            layers = edit.layers or cross_attention_layers(unet)
            stack.enter_context(wrapped_processors(unet, layers, partial(EditedProcessor, edit=edit)))
        yield
