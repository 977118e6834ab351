"""What a run was asked for: frozen, made once from the command line, and what of it decides the numbers."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol, TypeVar

from memorization.bundled import bundled_name
from memorization.files.layout import RunFiles
from memorization.identity import MODEL_PARTS

IDENTITY = (
    "dataset",
    "prompt_key",
    "clean_prompts",
    *MODEL_PARTS,
    "base_model_id",
    "gen_seed",
    "seed_mode",
    "num_images_per_prompt",
    "image_length",
    "guidance_scale",
    "num_inference_steps",
)
ORIGINAL_SEEDS = "original"
OWN_BASE = "own"  # for --base_model_id: the same model without what is added to it


@dataclass(frozen=True)
class RunSettings:
    """What both scripts are asked for, by the names of the command line; its help says what each is.

    Defaults are those of the command line but for the data set and the number of images, which differ by script.
    """

    dataset: str
    model_id: str
    num_images_per_prompt: int
    run_name: str = "test"
    prompt_key: str | None = None
    start: int = 0
    end: int = 500
    clean_prompts: bool = True
    overwrite: bool = False
    output_dir: Path = Path(".")
    with_tracking: bool = False
    tracker: str = "jsonl"
    unet_id: str | None = None
    vae_id: str | None = None
    lora: list[str] | None = None
    embedding: list[str] | None = None
    config: str | None = None
    base_model_id: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    channels_last: bool = False
    compile: bool = False
    offload: str = "none"
    gen_seed: int = 0
    seed_mode: str = "per_image"
    image_length: int | None = None
    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    batch_size: int = 16
    grad_batch_size: int | None = None
    store_img_npz: bool = True
    store_img_png: bool = True

    @property
    def identity(self) -> dict[str, object]:
        """What decides every image, as it is kept beside the rows: bundled files by name, wherever they lie."""
        return {name: bundled_name(getattr(self, name)) for name in IDENTITY}

    def mask_settings(self, layers: list[str]) -> dict[str, object]:
        """What a bright-ending mask depends on besides prompt and seed."""
        is_joint = self.seed_mode == ORIGINAL_SEEDS
        joint = f":{self.num_images_per_prompt}:{self.gen_seed}" if is_joint else ""
        names = ("model_id", "unet_id", "lora", "embedding", "config", "guidance_scale", "num_inference_steps")
        identity = self.identity
        return {name: identity[name] for name in (*names, "image_length")} | {
            "layers": layers,
            "seed_mode": self.seed_mode + joint,
        }


class ScriptSettings(Protocol):
    """What the settings of both scripts have."""

    @property
    def run(self) -> RunSettings: ...

    @property
    def files(self) -> RunFiles: ...

    @property
    def kept(self) -> dict[str, object]: ...

    @property
    def given_files(self) -> dict[str, Path | None]: ...


SettingsClass = TypeVar("SettingsClass")


def from_arguments(
    cls: type[SettingsClass], args: argparse.Namespace | Mapping[str, object], **changes: object
) -> SettingsClass:
    """Settings of a dataclass out of parsed arguments, which have more; `changes` replace some."""
    values = dict(args) if isinstance(args, Mapping) else vars(args)
    names = {f.name for f in fields(cls)}  # type: ignore[arg-type]  # a dataclass
    return cls(**{k: v for k, v in (values | changes).items() if k in names})


def kept(settings: object, names: tuple[str, ...]) -> dict[str, object]:
    """Those of the settings that decide the numbers, as they are kept beside the rows."""
    values = asdict(settings)  # type: ignore[call-overload]  # a dataclass
    return {name: bundled_name(values[name]) for name in names}
