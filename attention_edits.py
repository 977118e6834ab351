"""Cross-attention changed on purpose, for the length of a `with` block: what mitigations that work there are made of.

Unlike recording, an edit changes the image. It acts on one branch of a UNet call; the other branches and all layers
that are not edited keep the processors that they had.
"""

from dataclasses import dataclass

import torch

from attn_utils import cross_attention_layers, wrapped_processors

NOTHING = torch.finfo(torch.float32).min  # logit of a token that is hidden


@dataclass
class CrossAttentionEdit:
    """Changes to one branch's cross-attention. Every part is optional.

    Attributes:
        num_branches: branches of the UNet call.
        branch: the one that is changed.
        layers: names of the layers; None for all.
        hidden: tokens that get no attention, bool (images, tokens).
        scale_begin: factor of the begin token's logit (Ren et al.).
        spikes: (threshold, factor): logits of tokens whose largest attention in `spikes_from`, another branch, has
            a z-score above the threshold are multiplied by the factor; the begin token, always bright, is let be.
        values: by layer, what the value vectors are multiplied with, (images, channels).
    """

    num_branches: int = 2
    branch: int = 1
    layers: tuple | None = None
    hidden: torch.Tensor | None = None
    scale_begin: float = 1.0
    spikes: tuple | None = None
    spikes_from: int = 2
    values: dict | None = None

    def change_logits(self, logits):
        """Logits of every branch, a list of (images, heads, positions, tokens); returns those of `branch`."""
        changed = logits[self.branch]
        if self.scale_begin != 1:
            changed = torch.cat([changed[..., :1] * self.scale_begin, changed[..., 1:]], -1)
        if self.spikes is not None:
            threshold, factor = self.spikes
            spiking = spiking_tokens(logits[self.spikes_from].softmax(-1), threshold)
            changed = torch.where(spiking[:, None, None], changed * factor, changed)
        if self.hidden is not None:
            changed = changed.masked_fill(self.hidden[:, None, None], NOTHING)
        return changed


def spiking_tokens(probs, threshold):
    """Tokens whose largest attention over positions, averaged over heads, has a z-score above the threshold.

    Args:
        probs: (images, heads, positions, tokens).

    Returns:
        bool (images, tokens); False for the begin token, which does not enter the statistics either.
    """
    peaks = probs.amax(2).mean(1)[:, 1:]
    z = (peaks - peaks.mean(1, keepdim=True)) / peaks.std(1, keepdim=True).clamp(min=1e-12)
    return torch.cat([torch.zeros_like(z[:, :1], dtype=torch.bool), z > threshold], 1)


class EditedProcessor:
    """Attention processor that computes the edited branch openly and leaves the others to `inner`."""

    def __init__(self, inner, name, edit):
        self.inner, self.name, self.edit = inner, name, edit

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, *args, **kwargs):
        result = self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)
        branches = list(result.chunk(self.edit.num_branches))
        branches[self.edit.branch] = self.edited(attn, hidden_states, encoder_hidden_states)
        return torch.cat(branches)

    def edited(self, attn, hidden_states, encoder_hidden_states):
        edit = self.edit
        states, tokens = (x.chunk(edit.num_branches) for x in (hidden_states, encoder_hidden_states))
        needed = {edit.branch, edit.spikes_from} if edit.spikes is not None else {edit.branch}
        logits = [raw_logits(attn, states[b], tokens[b]) if b in needed else None for b in range(edit.num_branches)]
        value = attn.to_v(tokens[edit.branch])
        if edit.values is not None and self.name in edit.values:
            value = value * edit.values[self.name][:, None].to(value)
        probs = edit.change_logits(logits).softmax(-1).to(value.dtype)
        out = probs @ value.unflatten(2, (attn.heads, -1)).transpose(1, 2)
        return attn.to_out[1](attn.to_out[0](out.transpose(1, 2).flatten(2)))


def raw_logits(attn, hidden_states, encoder_hidden_states):
    """Scaled products of queries and keys in float32, (images, heads, positions, tokens)."""
    query, key = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states)
    query, key = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2).float() for x in (query, key))
    return attn.scale * query @ key.transpose(2, 3)


def edit_cross_attention(unet, edit):
    """Context manager that applies an edit; the processors are restored on exit."""
    layers = edit.layers or cross_attention_layers(unet)
    return wrapped_processors(unet, layers, lambda inner, name: EditedProcessor(inner, name, edit))
