"""Text embeddings mixed within the batch."""

from collections.abc import Sequence

import torch

from memorization.finetuning.base import embedding_mitigation


@embedding_mitigation("mixed_embeddings", knob="a of Beta(a, 1), of which the own share is drawn", strength=0.1)
def mixed_embeddings(embeds: torch.Tensor, generators: Sequence[torch.Generator], strength: float) -> torch.Tensor:
    """Mixes the text embedding with that of another sample of the batch.

    One share and one permutation a batch, as released. Beta(a, 1) has the distribution function x^a, so that a uniform
    number to the power of 1 / a is drawn from it.
    """
    own = torch.rand(1, generator=generators[0]).pow(1 / strength).item()
    others = torch.randperm(len(embeds), generator=generators[0]).to(embeds.device)
    return own * embeds + (1 - own) * embeds[others]
