"""A fine-tuned model as our scripts and diffusers load it: a UNet, a whole pipeline, or a LoRA."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from diffusers import StableDiffusionPipeline
from diffusers.training_utils import _collate_lora_metadata

from memorization.finetuning.parts import trained_names
from memorization.finetuning.settings import FinetuneSettings
from memorization.models.stable_diffusion import quiet_loading

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline


def loading_options(settings: FinetuneSettings) -> list[str]:
    """The options that our scripts load the result by."""
    if settings.lora_rank is not None:
        return ["--model_id", settings.model_id, "--lora", str(settings.output)]
    if settings.train_text_encoder:
        return ["--model_id", str(settings.output)]
    return ["--model_id", settings.model_id, "--unet_id", str(settings.output)]


def save_model(pipe: "LocalStableDiffusionPipeline", settings: FinetuneSettings) -> None:
    """Write the result to the output folder."""
    if settings.lora_rank is not None:
        save_lora(pipe, settings, settings.output)
    elif settings.train_text_encoder:
        save_pipeline(pipe, settings.output)
    else:
        pipe.unet.save_pretrained(settings.output / "unet")


def save_lora(pipe: "LocalStableDiffusionPipeline", settings: FinetuneSettings, folder: Path) -> None:
    """Write a LoRA in diffusers' format."""
    from peft.utils import get_peft_model_state_dict

    parts = {name: getattr(pipe, name) for name in trained_names(settings)}
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(part) for name, part in parts.items()}
    StableDiffusionPipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(parts))


def save_pipeline(pipe: "LocalStableDiffusionPipeline", folder: Path) -> None:
    """Write the whole model, as stock diffusers loads it."""
    with quiet_loading(is_local=True):  # of transformers' bar
        StableDiffusionPipeline(**pipe.components, requires_safety_checker=False).save_pretrained(folder)


def save_between(pipe: "LocalStableDiffusionPipeline", settings: FinetuneSettings, step: int) -> None:
    """Write the model of a step to a folder of its own, whole or not at all: the pipeline, or the LoRA."""
    folder = settings.output / "pipelines" / f"{step:06}"
    fresh = folder.with_suffix(".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    if settings.lora_rank is None:
        save_pipeline(pipe, fresh)
    else:
        save_lora(pipe, settings, fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
