"""Joint attention of transformers: what image positions give the end tokens of the prompt, recorded on the side.

In a joint block image and text are one sequence, and the softmax is over both. Kept are, for the queries of the image,
the columns of the end tokens (CLIP's, T5's `</s>`), raw and over what all of the text gets. Nobody has published a
bright ending for these models.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb

from attn_utils import CrossAttentionStore

TEXT = "text"  # the column of all text together


def joint_layers(transformer: Any) -> list[str]:
    """Names of all joint attention layers, in the order of `attn_processors`."""
    return [name for name in transformer.attn_processors if name.endswith(".attn.processor")]


class JointAttentionStore(CrossAttentionStore):
    """Keeps (images, height * width): what the end tokens get, over what all of the text gets; with `padding` (images,
    height * width, 3 + end tokens): that, what is behind the end tokens over the same, each end token raw, all text.

    Attributes:
        others: names of the raw columns.
        of_image: whether the columns of image positions are kept, and not those of the text.
    """

    of_image = False

    def __init__(
        self,
        layers: Sequence[str],
        tokens: torch.Tensor,
        begins: Sequence[int],
        names: Sequence[str],
        text_length: int,
        padding: bool = False,
        text_branch: int = 1,
    ):
        """
        Args:
            tokens: row of each end token, int64 (images, end tokens).
            begins: row that each one's sequence begins at.
            names: of the end tokens.
            text_length: rows of all text.
        """
        super().__init__(layers, text_branch)
        self.tokens, self.text_length, self.padding = tokens, text_length, padding
        self.bounds = [*begins[1:], text_length]
        self.others = (*names, TEXT)

    def see(
        self,
        name: str,
        attn: Any,
        states: torch.Tensor,
        encoder_states: torch.Tensor | None,
        rotary: Any = None,
        *rest: object,
    ) -> None:
        """Read one layer's inputs; without `encoder_states` the text stands before the image.

        Args:
            rotary: cosines and sines of text and image, (rows, dim) each, where the layer has them.
        """
        both = [states] if encoder_states is None else [encoder_states, states]
        branch = min(self.text_branch, self.num_branches - 1)  # a call for the prompt alone has one
        text = [x.chunk(self.num_branches)[branch] for x in both]
        self.maps[name] = self.keep(joint_probs(attn, text, self.text_length, rotary, self.of_image))

    def keep(self, probs: torch.Tensor) -> torch.Tensor:
        """What is kept of a layer's attention of image positions to text, (images, positions, text)."""
        tokens = self.tokens.to(probs.device)
        every = probs.sum(2)
        raw = probs.gather(2, tokens[:, None].expand(-1, probs.shape[1], -1))
        end = raw.sum(2) / every
        if not self.padding:
            return end
        place = torch.arange(probs.shape[2], device=probs.device)
        bounds = torch.tensor(self.bounds, device=probs.device)[:, None]
        behind = ((place > tokens[:, :, None]) & (place < bounds)).any(1)
        return torch.stack([end, (probs * behind[:, None]).sum(2) / every, *raw.unbind(2), every], 2)


@torch.no_grad()
def joint_probs(
    attn: Any,
    states: Sequence[torch.Tensor],
    text_length: int,
    rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
    of_image: bool = False,
) -> torch.Tensor:
    """Softmax attention of image positions over text and image, averaged over heads: the columns of the text.

    Args:
        attn: diffusers' `Attention` or `FluxAttention`.
        states: features of text and image, (images, rows, channels) each; or of both in one, the text first.
        text_length: rows of the text.
        rotary: cosines and sines of all rows, (rows, dim) each.
        of_image: give the columns of the image instead.

    Returns:
        float32 tensor (images, image rows, text rows or image rows).
    """
    key = projected(states[-1], attn.to_k, attn.norm_k, attn.heads)
    if len(states) == 2:
        key = torch.cat([projected(states[0], attn.add_k_proj, attn.norm_added_k, attn.heads), key], 1)
    image = states[-1] if len(states) == 2 else states[-1][:, text_length:]
    query = projected(image, attn.to_q, attn.norm_q, attn.heads)
    if rotary is not None:
        key = apply_rotary_emb(key, rotary, sequence_dim=1)
        query = apply_rotary_emb(query, tuple(x[text_length:] for x in rotary), sequence_dim=1)
    kept = slice(text_length, None) if of_image else slice(text_length)
    total: torch.Tensor | float = 0.0
    for head in range(attn.heads):  # and in float32, as of cross-attention
        scores = query.shape[3] ** -0.5 * query[:, :, head].float() @ key[:, :, head].float().transpose(1, 2)
        total = total + scores.softmax(-1)[:, :, kept]
    return total / attn.heads


def projected(states: torch.Tensor, layer: Any, norm: Any, heads: int) -> torch.Tensor:
    """Queries or keys by head, (images, rows, heads, dim)."""
    by_head = layer(states).unflatten(2, (heads, -1))
    return by_head if norm is None else norm(by_head)
