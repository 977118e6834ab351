"""Pooled text features as rows behind the tokens, so that all that a prompt says is one tensor."""

import torch
import torch.nn.functional as F


def with_pooled(tokens: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
    """Features of tokens (samples, tokens, dim) and, in rows behind that zeros fill up, pooled (samples, width)."""
    filled = F.pad(pooled, (0, -pooled.shape[1] % tokens.shape[2]))
    return torch.cat([tokens, filled.unflatten(1, (-1, tokens.shape[2]))], 1)


def split_pooled(embeds: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What `with_pooled` put together, the tokens' and the pooled features.

    Args:
        embeds: (samples, rows, dim).
        width: of the pooled features.
    """
    length = embeds.shape[1] + -width // embeds.shape[2]  # less the rows that they take, rounded up
    return embeds[:, :length], embeds[:, length:].flatten(1)[:, :width]
