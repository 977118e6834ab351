"""Entropy of the cross-attention over the prompt's tokens: as released, as published, and two of ours."""

import torch

from memorization.detectors.base import detector
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2
from memorization.trace import Trace, late_steps, token_groups

REN = "Ren et al., ECCV 2024"
LAYER = 4  # of the cross-attention layers in the order in which the UNet calls them
LATE = {"late share of steps": 0.2}


def first_step(num_inference_steps: int) -> tuple[int, ...]:
    return (0,)


def first_and_late(num_inference_steps: int) -> tuple[int, ...]:
    return (0, *late_steps(num_inference_steps))


@detector(
    "attention_entropy",
    keys={"attention_entropy": "attention_entropy", "attention_entropy_absolute": "attention_entropy_absolute"},
    source=REN,
    attention_steps=first_and_late,
    released={SD1: LATE, SD2: LATE},
    revision=2,
    needs=(CROSS_ATTENTION,),
)
def attention_entropy(trace: Trace) -> dict[str, torch.Tensor]:
    """Late entropy of the attention over tokens, and by how much that of the padding grew since the first step.

    Ren et al. (ECCV 2024), of the cross-attention averaged over heads, layers and positions. E(padding) sums over the
    end token and all behind it, which the paper calls summary tokens.

    attention_entropy: mean over the last fifth of the steps of E_t + E_t(padding) - E_0(padding), as the released code
    has it. attention_entropy_absolute: of E_t + |E_t(padding) - E_0(padding)|, as the paper has it; never the smaller.
    Costs nothing beyond the generation.
    """
    means = mean_shares(trace)
    summary = summary_tokens(trace, means[0])
    first = entropy(means[0], summary)
    late = [means[k] for k in late_steps(trace.num_inference_steps)]
    grown = [entropy(mean, summary) - first for mean in late]
    whole = torch.stack([entropy(mean) for mean in late]).mean(0)
    return {
        "attention_entropy": whole + torch.stack(grown).mean(0),
        "attention_entropy_absolute": whole + torch.stack(grown).abs().mean(0),
    }


@detector(
    "attention_entropy_layer",
    keys={"attention_entropy_layer": "attention_entropy_layer"},
    source=REN,
    steps=1,
    attention_steps=first_step,
    released={SD1: {"layer": LAYER}, SD2: {"layer": LAYER}},
    revision=2,
    needs=(CROSS_ATTENTION,),
)
def attention_entropy_layer(trace: Trace) -> dict[str, torch.Tensor]:
    """Entropy of the attention over tokens at the first step, of the fourth cross-attention layer alone.

    Ren et al. (ECCV 2024), averaged over heads and positions. Their released detector takes high entropy for the sign
    of memorization; `attention_concentration` has the opposite sign. Costs nothing beyond the first step.
    """
    return {"attention_entropy_layer": layer_entropy(trace)}


@detector(
    "attention_concentration",
    keys={"attention_concentration": "attention_concentration"},
    source="ours",
    steps=1,
    attention_steps=first_step,
    needs=(CROSS_ATTENTION,),
)
def attention_concentration(trace: Trace) -> dict[str, torch.Tensor]:
    """Minus the entropy of the attention at the first step, of the fourth layer: high where few tokens get it all.

    The quantity of `attention_entropy_layer` with the sign turned round.
    """
    return {"attention_concentration": -layer_entropy(trace)}


@detector(
    "attention_entropy_padding",
    keys={"attention_entropy_padding": "attention_entropy_padding"},
    source="ours",
    attention_steps=first_and_late,
    needs=(CROSS_ATTENTION,),
)
def attention_entropy_padding(trace: Trace) -> dict[str, torch.Tensor]:
    """Entropy of the attention to end token and padding less that to begin token and words, late.

    Mean over the last fifth of the steps, of the entropies that Ren et al. (ECCV 2024) define.
    """
    means = mean_shares(trace)
    summary = summary_tokens(trace, means[0])
    late = [means[k] for k in late_steps(trace.num_inference_steps)]
    differences = [entropy(mean, summary) - entropy(mean, ~summary) for mean in late]
    return {"attention_entropy_padding": torch.stack(differences).mean(0)}


def mean_shares(trace: Trace) -> dict[int, torch.Tensor]:
    """What each token gets, averaged over all layers, (images, tokens), by step."""
    return {k: torch.stack(list(store.maps.values())).mean(0) for k, store in trace.token_shares.items()}


def summary_tokens(trace: Trace, like: torch.Tensor) -> torch.Tensor:
    """The end token and all behind it, bool (images, tokens)."""
    groups = token_groups(trace.tokens, like)
    return groups["end"] | groups["padding"]


def layer_entropy(trace: Trace) -> torch.Tensor:
    """Entropy of the fourth layer's attention at the first step, (images,); of the last layer where there are fewer."""
    layers = list(trace.token_shares[0].maps.values())  # a store keeps the order in which the layers were called
    return entropy(layers[min(LAYER, len(layers)) - 1])


def entropy(shares: torch.Tensor, group: torch.Tensor | None = None) -> torch.Tensor:
    """-sum a log a over the tokens, or those of a group, of (images, tokens) attention shares: (images,)."""
    terms = -torch.special.xlogy(shares, shares)
    return (terms if group is None else terms * group).sum(1)
