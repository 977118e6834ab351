"""What is asked for in the page, checked before any work: a prompt, a seed, how it is sampled, which model."""

import contextlib
import math
from dataclasses import dataclass

from memorization.data.prompts import PromptRecord, clean_prompt
from memorization.errors import InputError
from memorization.sampling import Sampling
from memorization.seeds import LARGEST_SEED

LONGEST_PROMPT = 1000  # characters; a model reads some 77 tokens
MOST_STEPS = 999  # of a schedule of 1000, which DDIM cannot be asked for whole
MOST_GUIDANCE = 100.0


@dataclass(frozen=True)
class Chosen:
    """A model out of those that can be chosen, and a LoRA in it; names of the page, no paths."""

    model: str
    lora: str | None = None
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Asked:
    """One picture.

    Attributes:
        prompt: as the tokenizer gets it.
        seed: of the command line, --gen_seed.
        guidance_scale: None for the model's usual one.
    """

    prompt: str
    chosen: Chosen
    seed: int = 0
    num_inference_steps: int = 50
    guidance_scale: float | None = None

    @property
    def sampling(self) -> Sampling:
        return Sampling(1, self.num_inference_steps, self.guidance_scale, self.seed)

    @property
    def record(self) -> PromptRecord:
        """The prompt alone, as the first of a file of prompts."""
        return PromptRecord(0, self.prompt, self.prompt)


def whole_number(value: object, least: int, most: int, name: str) -> int:
    """
    Raises:
        InputError: if it is none, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value != int(value):
        raise InputError(f"{name} is a whole number, not {str(value)[:40]!r}")
    if not least <= value <= most:
        raise InputError(f"{name} is {value:.0f}; give one from {least} to {most}")
    return int(value)


def make_asked(prompt: object, seed: object, steps: object, guidance: object, chosen: Chosen) -> Asked:
    """What a page's fields ask for.

    Raises:
        InputError: in one line, which says what to change.
    """
    if not isinstance(prompt, str) or not (cleaned := clean_prompt(prompt[: LONGEST_PROMPT + 1])):
        raise InputError("there is no prompt: type one")
    if len(prompt) > LONGEST_PROMPT:
        raise InputError(f"the prompt has {len(prompt)} characters; at most {LONGEST_PROMPT} are taken: shorten it")
    return Asked(
        prompt=cleaned,
        chosen=chosen,
        seed=whole_number(seed, 0, LARGEST_SEED, "the seed"),
        num_inference_steps=whole_number(steps, 1, MOST_STEPS, "the number of steps"),
        guidance_scale=guidance_of(guidance),
    )


def guidance_of(value: object) -> float | None:
    """
    Raises:
        InputError: if it is no number, or so large that no picture is left.
    """
    if value is None or value == "":
        return None
    with contextlib.suppress(TypeError, ValueError):
        scale = float(value)  # type: ignore[arg-type]  # whatever a page sends
        if abs(scale) <= MOST_GUIDANCE:
            return scale
    raise InputError(f"the guidance scale is a number up to {MOST_GUIDANCE:g}; leave it empty for the model's own")
