"""The original's layout of attention: every token of every layer by position, without prompts, seeds and settings."""

import zipfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from memorization.files.npz import READ_ERRORS, Streamed, array_shape, slabs, write_npz

NO_MASK = "is zero all over, or holds negative or infinite values"


def is_mask(scores: np.ndarray) -> bool:
    """Whether an array can weigh: finite, nowhere negative and not zero all over."""
    return bool(np.isfinite(scores).all() and (scores >= 0).all() and scores.any())


def save_whole_tokens(path: Path, parts: Sequence[Path]) -> None:
    """Write a file in the original's layout out of one .npy per prompt, (layers, images, positions, tokens).

    Raises:
        ValueError: if a part is missing, damaged, or unlike another.
    """
    first = read_part(parts[0])
    pieces = (read_part(part, first) for part in parts)
    write_npz(path, {"attention_scores": Streamed((len(parts), *first.shape), first.dtype, pieces)})


def read_part(path: Path, like: np.ndarray | None = None) -> np.ndarray:
    """One prompt's attention to every token.

    Raises:
        ValueError: if it is missing, damaged, or not of the type and shape of another prompt's.
    """
    try:
        array = open_memmap(path, mode="r")
        if like is not None and (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{array.dtype} of shape {array.shape}, others {like.dtype} of {like.shape}")
    except READ_ERRORS as error:
        raise ValueError(f"no attention in {path} although its row is finished: {error}; use --overwrite") from error
    return array


def is_original_layout(path: Path) -> bool:
    """Whether the file is in the original's layout, which says neither prompts nor seeds.

    Raises:
        ValueError: one line, if it is missing, damaged, or has no attention scores.
    """
    if not Path(path).is_file():
        raise ValueError(f"mask file {path} does not exist")
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except READ_ERRORS as error:
        raise ValueError(f"mask file {path} is not a readable npz file: {error}") from error
    if "attention_scores.npy" not in names:
        raise ValueError(f"mask file {path} has no array attention_scores")
    return "settings.npy" not in names


def load_original_layout(path: Path, end_tokens: Sequence[int], num_images: int, position: int = 0) -> torch.Tensor:
    """End-token masks out of a whole-token file of the original, read prompt by prompt.

    Args:
        path: npz whose attention_scores are (prompts, layers, images, height * width, tokens).
        end_tokens: end-token index of every wanted prompt, in the file's order.
        num_images: images per prompt of this run.
        position: place in the file of the first wanted prompt.

    Returns:
        float32 tensor (prompts, images, 1, height, width).

    Raises:
        ValueError: one line, if the file is damaged or its shape is not that of these prompts and images.
    """
    try:
        shape = array_shape(path, "attention_scores")
        side = check_original_shape(path, shape, end_tokens, num_images, position)
        wanted = islice(slabs(path, "attention_scores"), position, position + len(end_tokens))
        masks = [end_token_maps(slab, t) for slab, t in zip(wanted, end_tokens, strict=True)]
    except READ_ERRORS as error:
        told = str(error) if str(path) in str(error) else f"mask file {path} is damaged: {error}"
        raise ValueError(told) from error
    return torch.from_numpy(np.stack(masks)).unflatten(-1, (side, side)).unsqueeze(2)


def end_token_maps(slab: np.ndarray, token: int) -> np.ndarray:
    """The end token's attention out of one prompt's (layers, images, positions, tokens): (images, positions)."""
    if slab.dtype.kind != "f":
        raise ValueError(f"attention_scores are {slab.dtype}, not floating-point numbers")
    maps = slab[..., token].astype(np.float32).mean(0)
    if not all(map(is_mask, maps)):
        raise ValueError(f"a mask {NO_MASK}")
    return maps


def check_original_shape(
    path: Path, shape: Sequence[int], end_tokens: Sequence[int], num_images: int, position: int
) -> int:
    """Side of the maps, when the shape is that of these prompts and images."""
    if len(shape) != 5:
        raise ValueError(
            f"attention_scores in {path} has shape {shape}; expected (prompts, layers, images, positions, tokens)"
        )
    wanted = position + len(end_tokens)
    if shape[0] < wanted or not shape[1] or shape[2] != num_images or shape[4] <= max(end_tokens):
        raise ValueError(
            f"attention_scores in {path} has shape {shape}: this run needs at least {wanted} prompts, "
            f"exactly {num_images} images each and more than {max(end_tokens)} tokens"
        )
    side = round(shape[3] ** 0.5)
    if side**2 != shape[3] or not side:
        raise ValueError(f"attention_scores in {path} has {shape[3]} positions, which is not a square")
    return side
