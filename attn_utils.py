"""Cross-attention recording for Stable Diffusion UNets.

`record_cross_attention` swaps recording processors in for the length of a `with` block and puts the
originals back on the way out, whatever happens inside. The image is bit for bit the one the unhooked
model makes: each recorder hands the layer to the processor it replaced and reads the attention map
on the side, for the layers, the step, the branch and the token that were asked for and no others.
"""

from contextlib import contextmanager

import torch


class AttentionStore:
    """Keeps text-branch attention of `layers`; the latest UNet call inside `record_cross_attention` wins.

    Attributes:
        maps: layer name to float32 tensor on the UNet's device: (images, height * width), the column
            of each image's own token; (images, height * width, 2) with `padding`, the second being the sum
            over all tokens behind it; or (images, height * width, tokens) when `tokens` is None.
    """

    def __init__(self, layers, tokens=None, text_branch=1, padding=False):
        """
        Args:
            layers: names out of `cross_attention_layers`.
            tokens: index of the token to keep for every image, int64 (images,); None keeps all.
            text_branch: place of the prompt among the branches of a UNet call, uncond being 0.
            padding: also keep what the tokens behind `tokens` get together.
        """
        self.layers, self.tokens, self.text_branch = tuple(layers), tokens, text_branch
        self.padding = padding
        self.num_branches = 2
        self.maps = {}

    def add(self, name, attn, hidden_states, encoder_hidden_states):
        text = slice_branch(hidden_states, self.text_branch, self.num_branches)
        probs = cross_attention_probs(
            attn, text, slice_branch(encoder_hidden_states, self.text_branch, self.num_branches)
        )
        if self.tokens is not None:
            end = token_column(probs, self.tokens)
            probs = torch.stack([end, padding_sum(probs, self.tokens)], 2) if self.padding else end
        self.maps[name] = probs


class TokenShares:
    """Keeps the attention that each token gets, averaged over heads and positions, of `layers`.

    Attributes:
        maps: layer name to float32 tensor (images, tokens) that sums to 1.
    """

    def __init__(self, layers, text_branch=1):
        self.layers, self.text_branch, self.num_branches, self.maps = tuple(layers), text_branch, 2, {}

    def add(self, name, attn, hidden_states, encoder_hidden_states):
        branch = self.text_branch, self.num_branches
        text, tokens = slice_branch(hidden_states, *branch), slice_branch(encoder_hidden_states, *branch)
        self.maps[name] = cross_attention_probs(attn, text, tokens).mean(1)


def token_column(probs, tokens):
    """Each image's own token out of (images, positions, tokens): (images, positions)."""
    index = tokens.to(probs.device).view(-1, 1, 1).expand(-1, probs.shape[1], 1)
    return probs.gather(2, index).squeeze(2)


def padding_sum(probs, tokens):
    """Attention to everything behind each image's own token, (images, positions)."""
    behind = torch.arange(probs.shape[2], device=probs.device) > tokens.to(probs.device)[:, None]
    return (probs * behind[:, None]).sum(2)


def slice_branch(tensor, branch, num_branches):
    return tensor.chunk(num_branches)[branch]


class AttentionRecorder:
    """Attention processor that runs `inner` unchanged and lets the store read the layer's inputs."""

    def __init__(self, inner, name, store):
        self.inner, self.name, self.store = inner, name, store

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        if encoder_hidden_states is not None:
            self.store.add(self.name, attn, hidden_states, encoder_hidden_states)
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)


@torch.no_grad()
def cross_attention_probs(attn, hidden_states, encoder_hidden_states):
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
    total = 0
    for head in range(attn.heads):
        scores = attn.scale * query[:, :, head].float() @ key[:, :, head].float().transpose(1, 2)
        total = total + scores.softmax(-1)
    return total / attn.heads


def cross_attention_layers(unet):
    """Names of all cross-attention layers, in the order of `unet.attn_processors`."""
    return [name for name in unet.attn_processors if name.endswith("attn2.processor")]


def down_cross_layers(unet, block=0):
    """Names of the cross-attention layers of down block `block` (0 is the finest resolution).

    Raises:
        ValueError: if that block has none.
    """
    layers = [n for n in cross_attention_layers(unet) if n.startswith(f"down_blocks.{block}.")]
    if not layers:
        raise ValueError(f"down block {block} of this UNet has no cross-attention layers")
    return layers


@contextmanager
def wrapped_processors(unet, layers, wrap):
    """Attention processors of `layers` replaced by wrap(processor, name) for the block; restored on exit.

    A compiled UNet runs uncompiled inside: compiling another one for a few steps would cost more than they do.

    Raises:
        KeyError: if the UNet has no layer of a name.
    """
    original = unet.attn_processors
    missing = sorted(set(layers) - set(original))
    if missing:
        raise KeyError(f"no such attention layers: {missing}; this UNet has {cross_attention_layers(unet)}")
    try:
        unet.set_attn_processor({n: wrap(p, n) if n in layers else p for n, p in original.items()})
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        unet.set_attn_processor(dict(original))


@contextmanager
def record_cross_attention(unet, store):
    """Record into `store` for the duration of the block; the processors are restored on exit.

    Raises:
        KeyError: if the UNet has no layer of a name the store asks for.
    """
    with wrapped_processors(unet, store.layers, lambda inner, name: AttentionRecorder(inner, name, store)):
        yield store
