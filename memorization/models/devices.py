"""Where a model computes, and in which precision."""

import torch

from memorization.errors import first_line


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
