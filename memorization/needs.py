"""What methods need that not every family of models has, and how one is refused where it is lacking.

A detector or mitigation names its needs in its record, a pipeline what it lacks, with the reason.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from memorization.errors import InputError

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

NOISE = "the predicted noise of a diffusion schedule"
CROSS_ATTENTION = "the cross-attention of a UNet"
TOKENS = "one sequence of tokens, from a begin token to padding"
ONE_ENCODER = "one text encoder"
GUIDANCE = "classifier-free guidance"


def undefined_needs(pipe: "DenoisingPipeline") -> dict[str, str]:
    """What a model lacks, each with the end of the line that refuses a method for it."""
    return {need: f"is not defined for {pipe.family_name}, {why}" for need, why in pipe.lacks.items()}


def why_undefined(needs: Iterable[str], undefined: Mapping[str, str]) -> str | None:
    """Why a method with these needs is not defined, by `undefined_needs`; None where it is."""
    return next((undefined[need] for need in needs if need in undefined), None)


def refuse_undefined(name: str, needs: Iterable[str], pipe: "DenoisingPipeline") -> None:
    """
    Raises:
        InputError: if the method of this name is not defined for the model.
    """
    why = why_undefined(needs, undefined_needs(pipe))
    if why is not None:
        raise InputError(f"{name} {why}")
