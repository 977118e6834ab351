"""The models and LoRAs that can be chosen: what the command line names, and what lies in the folders that it names."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from memorization.bundled import MODEL, bundled_name
from memorization.errors import InputError, input_errors
from memorization.explorer.asked import Chosen
from memorization.runs.models import load_model
from memorization.runs.settings import RunSettings, from_arguments

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

SINGLE_FILES = (".safetensors", ".ckpt")


def models_in(folder: Path) -> list[Path]:
    """Model folders and single files right inside a folder.

    Raises:
        InputError: if it is none, or holds none.
    """
    found = [p for p in entries(folder, "--models") if (p / "model_index.json").is_file() or p.suffix in SINGLE_FILES]
    if not found:
        raise InputError(f"--models {folder} holds no model folder (model_index.json) and no .safetensors or .ckpt")
    return found


def loras_in(folder: Path) -> list[Path]:
    """LoRA files right inside a folder.

    Raises:
        InputError: if it is none, or holds none.
    """
    found = [p for p in entries(folder, "--loras") if p.suffix in SINGLE_FILES]
    if not found:
        raise InputError(f"--loras {folder} holds no .safetensors")
    return found


def entries(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{option} {folder} is no folder")
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


@dataclass
class Models:
    """What can be chosen, and the one that is loaded: a second model would not fit beside it.

    Attributes:
        settings: of the command line's own model.
        others, loras: paths by the names of the page.
        loaded: the pipeline in use, and what it was chosen by.
    """

    settings: RunSettings
    others: Mapping[str, Path] = field(default_factory=dict)
    loras: Mapping[str, Path] = field(default_factory=dict)
    loaded: "tuple[Chosen, DenoisingPipeline] | None" = None

    @classmethod
    def from_args(cls, args: argparse.Namespace) -> "Models":
        """
        Raises:
            InputError: if a folder holds nothing to choose from.
        """
        settings = from_arguments(RunSettings, args, dataset="", num_images_per_prompt=1)
        others = [] if args.models is None else models_in(args.models)
        loras = [] if args.loras is None else loras_in(args.loras)
        return cls(settings, {p.name: p for p in others}, {p.name: p for p in loras})

    @property
    def own(self) -> str:
        """Name of the command line's model."""
        return str(bundled_name(self.settings.model_id))

    @property
    def names(self) -> list[str]:
        return [self.own, *(name for name in self.others if name != self.own)]

    def choose(self, model: object, lora: object = None, lora_scale: object = 1.0) -> Chosen:
        """What the page's fields choose.

        Raises:
            InputError: if it is none of what there is: no other path is ever opened.
        """
        if model not in self.names:
            raise InputError(f"there is no model {str(model)[:60]!r}; choose one of {', '.join(self.names)}")
        if lora and lora not in self.loras:
            raise InputError(f"there is no LoRA {str(lora)[:60]!r}; choose one of {', '.join(self.loras) or 'none'}")
        if not isinstance(lora_scale, int | float) or not abs(lora_scale) <= 10:
            raise InputError("the scale of a LoRA is a number up to 10")
        return Chosen(str(model), str(lora), float(lora_scale)) if lora else Chosen(str(model))

    def run_settings(self, chosen: Chosen) -> RunSettings:
        """Settings of a choice by the names of the command line, whose parts and LoRAs go with its own model."""
        given = self.settings
        added = [] if chosen.lora is None else [f"{self.loras[chosen.lora]}:{chosen.lora_scale:g}"]
        if chosen.model == self.own:
            return with_values(given, lora=[*(given.lora or []), *added] or None)
        parts = dict.fromkeys(("unet_id", "transformer_id", "vae_id", "embedding"))
        return with_values(given, model_id=str(self.others[chosen.model]), lora=added or None, **parts)

    @property
    def is_own_bundled(self) -> bool:
        """Whether the command line's model is the bundled one, whose magnitudes are smaller than others'."""
        return Path(self.settings.model_id).name == MODEL.name

    def pipe(self, chosen: Chosen) -> "DenoisingPipeline":
        """The chosen pipeline, loaded where another was; whoever calls holds the lock on the model.

        Raises:
            InputError: one line, if it cannot be loaded.
        """
        if self.loaded is None or self.loaded[0] != chosen:
            self.loaded = None  # its memory goes first
            settings = self.run_settings(chosen)
            with input_errors():
                self.loaded = (chosen, load_model(settings, settings.device))
        return self.loaded[1]


def with_values(settings: RunSettings, **values: object) -> RunSettings:
    return from_arguments(RunSettings, vars(settings), **values)


def model_options(settings: RunSettings, default: RunSettings) -> Sequence[str]:
    """The words of a command line that load this model: those that differ from the defaults."""
    words: list[str] = []
    for name in MODEL_OPTIONS:
        value = getattr(settings, name)
        if value != getattr(default, name):
            for one in value if isinstance(value, list) else [value]:
                words += [f"--{name}", str(bundled_name(one))]
    return words


MODEL_OPTIONS = (
    *("model_id", "config", "unet_id", "transformer_id", "vae_id", "lora", "embedding"),
    *("device", "dtype", "channels_last", "offload", "compile"),
)
