"""What a training-time mitigation is: one function that changes captions or their embeddings, with a probability.

It is a file under `@caption_mitigation` or `@embedding_mitigation` in mitigations/, which is found by itself.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from memorization.errors import InputError
from memorization.registry import Registry, first_sentence

CAPTION, EMBEDDING = "caption", "embedding"  # what one acts on
SOMEPALLI = "Somepalli et al., NeurIPS 2023"


@dataclass(frozen=True)
class Caption:
    """The caption of one sample, and what a mitigation may make another of.

    Attributes:
        text: as it is so far.
        own: every caption that the data set has of the picture.
        tokens: texts of the tokenizer's tokens.
        rng: of this sample alone.
    """

    text: str
    own: Sequence[str]
    tokens: Sequence[str]
    rng: random.Random


CaptionFunction = Callable[[Caption, float], str]
# From embeddings (samples, tokens, dim), the generator of each sample and the strength to other embeddings.
EmbeddingFunction = Callable[[torch.Tensor, Sequence[torch.Generator], float], torch.Tensor]


@dataclass(frozen=True)
class TrainingMitigation:
    """A training-time mitigation that `--mitigation` chooses by name.

    Attributes:
        function: a `CaptionFunction` or an `EmbeddingFunction`.
        acts_on: which of them, "caption" or "embedding".
        what: one line on what it does.
        source: where it was published.
        probability: share of the samples that it acts on, as released.
        knob, strength: what its strength is, and the released one; no knob where it has none.
        whole: whether the strength is a whole number.
        needs_several: whether it takes another caption of the picture.
    """

    name: str
    function: Callable
    acts_on: str
    what: str
    source: str
    probability: float
    knob: str = ""
    strength: float = 1
    whole: bool = False
    needs_several: bool = False


TRAINING_MITIGATIONS: Registry[TrainingMitigation] = Registry(
    "memorization.finetuning.mitigations", "training-time mitigation"
)


def caption_mitigation(
    name: str, *, probability: float = 0.1, source: str = SOMEPALLI, **rest
) -> Callable[[CaptionFunction], CaptionFunction]:
    """Register the decorated function, which gives a sample another caption; see `TrainingMitigation`."""
    return registering(name, CAPTION, probability, source, rest)


def embedding_mitigation(
    name: str, *, probability: float = 1, source: str = SOMEPALLI, **rest
) -> Callable[[EmbeddingFunction], EmbeddingFunction]:
    """Register the decorated function, which gives samples other embeddings; see `TrainingMitigation`."""
    return registering(name, EMBEDDING, probability, source, rest)


def registering(name: str, acts_on: str, probability: float, source: str, rest: dict) -> Callable:
    def register(function: Callable) -> Callable:
        what = first_sentence(function)
        record = TrainingMitigation(name, function, acts_on, what, source, probability, **rest)
        TRAINING_MITIGATIONS.add(name, record)
        return function

    return register


@dataclass(frozen=True)
class Acting:
    """A mitigation as a training has it."""

    record: TrainingMitigation
    probability: float
    strength: float

    def caption(self, caption: Caption) -> str:
        """The caption of a sample, changed or not."""
        acts = caption.rng.random() < self.probability
        return self.record.function(caption, self.strength) if acts else caption.text

    def embeddings(self, embeds: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Embeddings of a batch, (samples, tokens, dim), those of some samples changed."""
        drawn = torch.cat([torch.rand(1, generator=generator) for generator in generators])
        acts = (drawn < self.probability).to(embeds.device)
        return torch.where(acts[:, None, None], self.record.function(embeds, generators, self.strength), embeds)


def parse_mitigation(text: str) -> Acting:
    """A mitigation out of `NAME[:PROBABILITY[:STRENGTH]]`, as released where there is none.

    Raises:
        InputError: if there is none of this name, or a number that it cannot have.
    """
    name, *numbers = text.split(":")
    record = TRAINING_MITIGATIONS.get_known(name, "--mitigation")
    try:
        probability, strength, *more = [*map(float, numbers), *(record.probability, record.strength)[len(numbers) :]]
    except ValueError:
        raise InputError(f"--mitigation {text} is not NAME[:PROBABILITY[:STRENGTH]]") from None
    if more or (len(numbers) > 1 and not record.knob):
        raise InputError(f"--mitigation {text} has more numbers than {name} has: a probability and {record.knob or 0}")
    if not 0 <= probability <= 1:
        raise InputError(f"--mitigation {text}: {probability:g} is no probability from 0 to 1")
    if not 0 < strength < float("inf") or (record.whole and strength % 1):
        raise InputError(f"--mitigation {text}: {strength:g} is no {'whole ' if record.whole else ''}number above 0")
    return Acting(record, probability, strength)


def parse_mitigations(texts: Sequence[str], acts_on: str | None = None) -> list[Acting]:
    """Those of some texts that act on captions or on embeddings, in their order; all of them without a choice."""
    every = [parse_mitigation(text) for text in texts]
    return [acting for acting in every if acts_on in (None, acting.record.acts_on)]
