"""Joint attention computed openly, all heads at once, in place of the processor of diffusers."""

import torch
from diffusers.models.embeddings import apply_rotary_emb


class OpenJointAttention:
    """Keeps the probabilities of every call, (samples, heads, rows, rows), in the order text, image."""

    def __init__(self):
        self.seen = []

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, rotary=None):
        def heads(x, layer, norm):
            x = layer(x).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            return x if norm is None else norm(x)

        parts = [[heads(hidden_states, getattr(attn, f"to_{k}"), getattr(attn, f"norm_{k}", None)) for k in "qkv"]]
        length = 0
        if encoder_hidden_states is not None:
            length, e = encoder_hidden_states.shape[1], encoder_hidden_states
            added = [(getattr(attn, f"add_{k}_proj"), getattr(attn, f"norm_added_{k}", None)) for k in "qkv"]
            parts.insert(0, [heads(e, *layers) for layers in added])
        query, key, value = (torch.cat(x, 2) for x in zip(*parts, strict=True))
        if rotary is not None:
            query, key = (apply_rotary_emb(x, rotary, sequence_dim=2) for x in (query, key))
        probs = (query @ key.transpose(2, 3) / query.shape[3] ** 0.5).softmax(3)
        self.seen.append(probs)
        out = (probs @ value).transpose(1, 2).flatten(2)
        if encoder_hidden_states is None:
            return out if getattr(attn, "pre_only", False) else attn.to_out[0](out)
        text = out[:, :length]
        text = text if attn.context_pre_only else attn.to_add_out(text)
        return attn.to_out[0](out[:, length:]), text
