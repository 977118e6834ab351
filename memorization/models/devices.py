"""Where a model computes, in which precision, and where its weights lie meanwhile."""

from typing import Any

import torch

from memorization.errors import first_line
from memorization.models.families import parts_with_weights

OFFLOADS = ("none", "model", "sequential")


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


def pick_dtype(dtype: str, device: str, half: str = "float16") -> torch.dtype:
    """
    Args:
        dtype: by name; "auto" is `half` on CUDA and float32 elsewhere.

    Raises:
        ValueError: if the device cannot compute in it.
    """
    if dtype == "auto":
        dtype = half if device.startswith("cuda") else "float32"
    found = getattr(torch, dtype)
    try:
        ones = torch.ones(1, 1, 3, 3, dtype=found, device=device)
        torch.nn.functional.conv2d(ones, ones)
    except RuntimeError as error:
        raise ValueError(f"{device} cannot compute in {found} ({first_line(error)}); use --dtype float32") from error
    return found


def check_offload(offload: str, device: str, compile: bool) -> None:
    """
    Args:
        offload: one of `OFFLOADS`.

    Raises:
        ValueError: if it is none of them, or weights cannot lie elsewhere than where they are computed with.
    """
    if offload not in OFFLOADS:
        raise ValueError(f"--offload {offload} is none of {', '.join(OFFLOADS)}")
    if offload == "none":
        return
    if not device.startswith("cuda"):
        raise ValueError(f"--offload {offload} keeps weights off a CUDA device, and the device here is {device}")
    if compile:
        raise ValueError(f"--offload {offload} and --compile do not go together: leave one of them out")


def place(pipe: Any, device: str, offload: str) -> None:
    """Put a pipeline where it computes, or tell its parts to go there when they are called.

    Args:
        offload: "model" has one part at a time on the device, "sequential" one layer.
    """
    if offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)


def is_offloaded(pipe: Any) -> bool:
    """Whether parts of a pipeline are moved when they are called."""
    return any(hasattr(part, "_hf_hook") for part in parts_with_weights(pipe).values())
