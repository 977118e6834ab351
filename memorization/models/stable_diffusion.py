"""Loading Stable Diffusion 1.x and 2.x for measurement."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import DDIMScheduler, UNet2DConditionModel

from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import find_bundled
from memorization.errors import first_line

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
        ValueError: one line that names the fault: not there, not Stable Diffusion, half precision on a
            device that lacks it.
    """
    device = pick_device(device)
    torch_dtype = pick_dtype(dtype, device)
    model_id = str(find_bundled(model_id)) if find_bundled(model_id).exists() else str(model_id)
    kwargs = dict(safety_checker=None, requires_safety_checker=False, dtype=torch_dtype)
    with quiet_loading(is_local=Path(model_id).exists()):
        if unet_id is not None:
            kwargs["unet"] = load_unet(str(unet_id), torch_dtype)
        check_model_folder(model_id)
        try:
            pipe = LocalStableDiffusionPipeline.from_pretrained(model_id, **kwargs)
        except FAULTS as error:
            raise ValueError(f"cannot load {model_id} as a Stable Diffusion pipeline: {first_line(error)}") from error
    if not isinstance(pipe.unet, UNet2DConditionModel):
        raise ValueError(f"{model_id} is not a Stable Diffusion 1.x or 2.x model: it has no UNet2DConditionModel")
    prepare(pipe, device, channels_last)
    if compile:
        pipe.unet.compile()
    return pipe


def prepare(pipe: LocalStableDiffusionPipeline, device: str, channels_last: bool) -> None:
    """DDIM, no progress bar, no gradients, on its device."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
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
        yield
    finally:
        for logger in loggers:
            logger.enable_progress_bar()


def check_model_folder(model_id: str) -> None:
    """Say early, and in one line, why a local path cannot be a Stable Diffusion folder.

    Raises:
        ValueError: if it cannot.
    """
    path = Path(model_id)
    looks_local = path.exists() or model_id.startswith((".", "/", "~")) or model_id.count("/") != 1
    if not looks_local:
        return
    if not path.is_dir():
        raise ValueError(f"model folder {model_id} does not exist; give a diffusers folder or a hub id")
    index = path / "model_index.json"
    if not index.exists():
        raise ValueError(f"{model_id} is not a Stable Diffusion folder: it has no model_index.json")
    try:
        parts = json.loads(index.read_text())
        kinds = parts["unet"][1], parts["text_encoder"][1], "text_encoder_2" in parts
    except (ValueError, KeyError, TypeError, IndexError):
        kinds = None
    if kinds != ("UNet2DConditionModel", "CLIPTextModel", False):
        raise ValueError(f"{model_id} is not a Stable Diffusion 1.x or 2.x folder: see its model_index.json")


def load_unet(unet_id: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """
    Raises:
        ValueError: if there is none.
    """
    subfolder = "unet" if (Path(unet_id) / "unet").is_dir() else None
    try:
        return UNet2DConditionModel.from_pretrained(unet_id, subfolder=subfolder, dtype=dtype)
    except (OSError, ValueError) as error:
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
