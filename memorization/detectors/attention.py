"""Entropy of the cross-attention over the prompt's tokens."""

import torch

from memorization.detectors.base import detector
from memorization.trace import Trace, late_steps, token_groups

ENTROPY_LAYER = 3  # the fourth cross-attention layer, from 0


def first_and_late(num_inference_steps: int) -> tuple[int, ...]:
    return (0, *late_steps(num_inference_steps))


@detector(
    "attention_entropy",
    keys={
        "attention_entropy": "attention_entropy",
        "attention_entropy_layer": "attention_entropy_layer",
        "attention_entropy_padding": "attention_entropy_padding",
    },
    source="Ren et al., ECCV 2024",
    key_steps={"attention_entropy_layer": 1},
    attention_steps=first_and_late,
)
def attention_entropy(trace: Trace) -> dict[str, torch.Tensor]:
    """Entropy of the attention over tokens: late; of one layer at the first step; padding less prompt.

    Ren et al. (ECCV 2024), of the cross-attention averaged over heads, layers and positions.

    attention_entropy: mean over the last fifth of the steps of E_t + |E_t(padding) - E_0(padding)|, where
    E(padding) sums over the end token and all behind it, which the paper calls summary tokens; the paper has the
    absolute value, its code leaves it out. attention_entropy_layer: -E at the first step of the fourth layer
    alone, as low entropy is the sign there. attention_entropy_padding: E(padding) - E(prompt) in the last fifth.
    Costs nothing beyond the generation.
    """
    means = {k: torch.stack(list(s.maps.values())).mean(0) for k, s in trace.token_shares.items()}
    groups = token_groups(trace.tokens, means[0])
    summary = groups["end"] | groups["padding"]
    late = [k for k in means if k >= late_steps(trace.num_inference_steps)[0]]
    first, values, differences = entropy(means[0], summary), [], []
    for k in late:
        padding = entropy(means[k], summary)
        values.append(entropy(means[k]) + (padding - first).abs())
        differences.append(padding - entropy(means[k], ~summary))
    layers = list(trace.token_shares[0].maps.values())
    layer = layers[min(ENTROPY_LAYER, len(layers) - 1)]
    return {
        "attention_entropy": torch.stack(values).mean(0),
        "attention_entropy_layer": -entropy(layer),
        "attention_entropy_padding": torch.stack(differences).mean(0),
    }


def entropy(shares: torch.Tensor, group: torch.Tensor | None = None) -> torch.Tensor:
    """-sum a log a over the tokens, or those of a group, of (images, tokens) attention shares: (images,)."""
    terms = -torch.special.xlogy(shares, shares)
    return (terms if group is None else terms * group).sum(1)
