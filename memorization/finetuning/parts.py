"""What of a model is trained: its UNet, with or without the text encoder, whole or by LoRA."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.training_utils import EMAModel

from memorization.errors import InputError, first_line
from memorization.finetuning.settings import FinetuneSettings

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

# Projections of every attention layer, as diffusers' own training scripts tune them.
LORA_TARGETS = {
    "unet": ("to_q", "to_k", "to_v", "to_out.0"),
    "text_encoder": ("q_proj", "k_proj", "v_proj", "out_proj"),
}


def trained_names(settings: FinetuneSettings) -> tuple[str, ...]:
    """The parts of the pipeline that are trained."""
    return ("unet", "text_encoder") if settings.train_text_encoder else ("unet",)


def make_trainable(pipe: "LocalStableDiffusionPipeline", settings: FinetuneSettings) -> list[torch.nn.Parameter]:
    """Make the parts that are trained ready for it, in place; returns the parameters to train.

    Raises:
        InputError: if peft cannot tune a part.
    """
    if settings.unet_from_scratch:
        pipe.unet = UNet2DConditionModel.from_config(pipe.unet.config).to(pipe.device)
    parameters = []
    for name in trained_names(settings):
        part = getattr(pipe, name).train()
        if settings.lora_rank is None:
            part.requires_grad_()
        else:
            add_lora(part, name, settings.lora_rank, settings.lora_alpha or settings.lora_rank)
        if settings.gradient_checkpointing:
            enable = part.enable_gradient_checkpointing if name == "unet" else part.gradient_checkpointing_enable
            enable()
        parameters += [p for p in part.parameters() if p.requires_grad]
    return parameters


def add_lora(part: Any, name: str, rank: int, alpha: int) -> None:
    """Add low-rank matrices to every attention layer, which alone are trained: W + alpha / rank * B A, B being 0.

    Raises:
        InputError: if peft cannot, as where transformers asks for a newer one.
    """
    from peft import LoraConfig

    targets = list(LORA_TARGETS[name])
    try:
        part.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=targets))
    except (ValueError, ImportError) as error:
        raise InputError(f"--lora_rank cannot tune the {name} ({first_line(error)}); leave that part out") from error


@contextmanager
def averaged(average: EMAModel | None, parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """The running average of the parameters in their place, where there is one."""
    if average is None:
        yield
        return
    average.store(parameters)
    average.copy_to(parameters)
    try:
        yield
    finally:
        average.restore(parameters)
