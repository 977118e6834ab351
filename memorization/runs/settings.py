"""What a run was asked for: frozen, made once from the command line, and what of it decides the numbers."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from memorization.bundled import bundled_name
from memorization.files.layout import RunFiles
from memorization.identity import MODEL_PARTS
from memorization.seeds import image_seeds

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

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
ORIGINAL_SEEDS, SHARED_SEEDS = "original", "shared"
USUAL_END = 500  # of prompts, where none is given
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
    end: int | None = USUAL_END  # None: all
    clean_prompts: bool = True
    overwrite: bool = False
    output_dir: Path = Path(".")
    with_tracking: bool = False
    tracker: str = "jsonl"
    unet_id: str | None = None
    transformer_id: str | None = None
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
    guidance_scale: float | None = None  # until the model is known, whose usual one it then is
    num_inference_steps: int = 50
    batch_size: int = 16
    grad_batch_size: int | None = None
    store_img_npz: bool = True
    store_img_png: bool = True

    @property
    def identity(self) -> dict[str, object]:
        """What decides every image, as it is kept beside the rows: bundled files by name, wherever they lie."""
        return {name: bundled_name(getattr(self, name)) for name in IDENTITY}

    def seeds(self, index: int) -> list[int]:
        """Seeds of the images of the prompt with this index; shared ones are those of index 0."""
        index = 0 if self.seed_mode == SHARED_SEEDS else index
        return image_seeds(self.gen_seed, index, self.num_images_per_prompt)

    def mask_settings(self, layers: list[str]) -> dict[str, object]:
        """What a bright-ending mask depends on besides prompt and seed."""
        is_joint = self.seed_mode == ORIGINAL_SEEDS
        joint = f":{self.num_images_per_prompt}:{self.gen_seed}" if is_joint else ""
        names = ("model_id", "unet_id", "transformer_id", "lora", "embedding", "config", "guidance_scale")
        identity = self.identity
        return {name: identity[name] for name in (*names, "num_inference_steps", "image_length")} | {
            "layers": layers,
            "seed_mode": self.seed_mode + joint,
        }


def with_guidance(settings: RunSettings, pipe: "DenoisingPipeline") -> RunSettings:
    """The settings with the model's usual guidance scale where none was given, which the model is told of."""
    scale = pipe.default_guidance_scale if settings.guidance_scale is None else settings.guidance_scale
    pipe.set_guidance(scale)
    return replace(settings, guidance_scale=scale)


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
