"""Loading Stable Diffusion 1.x and 2.x for measurement."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import UNet2DConditionModel

from local_sd_pipeline import LocalStableDiffusionPipeline, Source
from memorization.bundled import find_bundled
from memorization.errors import first_line
from memorization.models.folders import check_model_folder, check_unet, check_unet_folder, looks_local
from memorization.models.schedulers import ddim_of, has_former_values

FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError)  # what a folder that is no model raises


def load_pipeline(
    model_id: str | Path,
    unet_id: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    channels_last: bool = False,
    compile: bool = False,
) -> LocalStableDiffusionPipeline:
    """Load a Stable Diffusion 1.x or 2.x pipeline for measurement: DDIM, no safety checker, no gradients.

    Args:
        model_id: folder in diffusers' layout, hub id, or the name of the bundled model, planted_sd.
        unet_id: folder or hub id of another UNet for it (a folder with a `unet` subfolder works too).
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" is float16 on CUDA and float32 elsewhere.
        channels_last: memory format of the UNet and the VAE; changes results by rounding alone.
        compile: torch.compile the UNet, at its first call; changes results by rounding alone.

    Raises:
        ValueError: one line that names the fault: not there, not Stable Diffusion, a UNet that needs other inputs, a
            scheduler that DDIM cannot stand in for, half precision on a device that lacks it.
    """
    device = pick_device(device)
    torch_dtype = pick_dtype(dtype, device)
    model_id = str(find_bundled(model_id)) if find_bundled(model_id).exists() else str(model_id)
    kwargs = dict(safety_checker=None, requires_safety_checker=False, dtype=torch_dtype)
    with quiet_loading(is_local=Path(model_id).exists()):
        variant = check_model_folder(model_id, own_unet=unet_id is None)
        if unet_id is not None:
            kwargs["unet"] = load_unet(str(unet_id), torch_dtype)
        pipe = load_parts(model_id, variant, **kwargs)
    if not isinstance(pipe.unet, UNet2DConditionModel):
        raise ValueError(f"{model_id} is not a Stable Diffusion 1.x or 2.x model: it has no UNet2DConditionModel")
    widths = pipe.vae.config.latent_channels, pipe.text_encoder.config.hidden_size
    check_unet(pipe.unet.config, *widths, model_id if unet_id is None else str(unet_id))
    is_former = has_former_values(pipe.scheduler)
    prepare(pipe, device, channels_last)
    pipe.loaded_from = Source(model_id, None if unet_id is None else str(unet_id), is_former)
    if compile:
        pipe.unet.compile()
    return pipe


def prepare(pipe: LocalStableDiffusionPipeline, device: str, channels_last: bool) -> None:
    """DDIM, no progress bar, no gradients, on its device."""
    pipe.scheduler = ddim_of(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.eval().requires_grad_(False)
    pipe.to(device)
    for module in (pipe.unet, pipe.vae) if channels_last else ():
        module.to(memory_format=torch.channels_last)


@contextmanager
def quiet_loading(is_local: bool) -> Iterator[None]:
    """No loading bars of other libraries for a model on the disk; what is downloaded keeps its bar."""
    loggers = (diffusers.utils.logging, transformers.utils.logging) if is_local else ()
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # ours is another scheduler, with the values that are asked for there
            warnings.filterwarnings("ignore", "The configuration file of this scheduler", FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.enable_progress_bar()


def load_parts(model_id: str, variant: str | None, **kwargs) -> LocalStableDiffusionPipeline:
    """
    Raises:
        ValueError: if it cannot be loaded.
    """
    try:
        return LocalStableDiffusionPipeline.from_pretrained(model_id, variant=variant, **kwargs)
    except FAULTS as error:
        if variant is None and not looks_local(model_id):  # a repository may have nothing else
            with suppress(*FAULTS):
                return LocalStableDiffusionPipeline.from_pretrained(model_id, variant="fp16", **kwargs)
        raise ValueError(f"cannot load {model_id} as a Stable Diffusion pipeline: {first_line(error)}") from error


def load_unet(unet_id: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """
    Raises:
        ValueError: if there is none.
    """
    subfolder, variant = check_unet_folder(unet_id)
    try:
        return UNet2DConditionModel.from_pretrained(unet_id, subfolder=subfolder, variant=variant, dtype=dtype)
    except FAULTS as error:
        if variant is None and not looks_local(unet_id):
            with suppress(*FAULTS):
                return UNet2DConditionModel.from_pretrained(unet_id, variant="fp16", dtype=dtype)
        raise ValueError(f"cannot load a UNet from {unet_id}: {first_line(error)}") from error


def pick_device(device: str) -> str:
    """
    Raises:
        ValueError: if the device is not there.
    """
    if device != "auto":
        try:
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise ValueError(f"no device {device} here, or torch was built without it; use --device auto") from error
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """
    Raises:
        ValueError: if the device cannot compute in it.
    """
    if dtype == "auto":
        return torch.float16 if device.startswith("cuda") else torch.float32
    found = getattr(torch, dtype)
    try:
        ones = torch.ones(1, 1, 3, 3, dtype=found, device=device)
        torch.nn.functional.conv2d(ones, ones)
    except RuntimeError as error:
        raise ValueError(f"{device} cannot compute in {found} ({first_line(error)}); use --dtype float32") from error
    return found
