"""Families of models that our own loop generates with, told apart before anything is loaded."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

SDXL_KEY = "conditioner.embedders."  # begins the text encoders' weights in one file of SDXL


@dataclass(frozen=True)
class Family:
    """What a folder in diffusers' layout holds.

    Attributes:
        name: in messages.
        text_encoders, tokenizers: its parts, by their folders.
        added_conditions: `addition_embed_type` of its UNet.
    """

    name: str
    text_encoders: tuple[str, ...] = ("text_encoder",)
    tokenizers: tuple[str, ...] = ("tokenizer",)
    added_conditions: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Folders with weights."""
        return ("unet", "vae", *self.text_encoders)


SD = Family("Stable Diffusion 1 and 2")
SDXL = Family("SDXL", ("text_encoder", "text_encoder_2"), ("tokenizer", "tokenizer_2"), "text_time")


def parts_with_weights(pipe: Any) -> dict[str, Any]:
    """The modules of a loaded pipeline of either family, by the names of their folders."""
    return {name: getattr(pipe, name) for name in SDXL.parts if hasattr(pipe, name)}


def family_of_index(index: Mapping[str, Any]) -> Family | None:
    """The family by model_index.json; None of any other, such as SDXL's refiner, which has no first text encoder."""
    kinds = [class_name(index.get(name)) for name in ("unet", "text_encoder", "text_encoder_2")]
    if kinds == ["UNet2DConditionModel", "CLIPTextModel", None]:
        return SD
    return SDXL if kinds == ["UNet2DConditionModel", "CLIPTextModel", "CLIPTextModelWithProjection"] else None


def class_name(part: object) -> object:
    """What model_index.json calls a part, out of its (library, class); None of a part that is not there."""
    return part[1] if isinstance(part, list | tuple) and len(part) == 2 else part


def family_of_keys(keys: Iterable[str]) -> Family:
    """The family of a checkpoint in one file, by the names of its weights."""
    return SDXL if any(key.startswith(SDXL_KEY) for key in keys) else SD
