"""Files of prompt embeddings: safetensors with one tensor (tokens, dim) per prompt index."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from memorization.errors import InputError


def read_embeddings(path: Path, indices: Iterable[int], shape: Sequence[int]) -> dict[int, torch.Tensor]:
    """Prompt embeddings by index, each (tokens, dim).

    Args:
        indices: of the prompts that are wanted.
        shape: (tokens, dim) of the model.

    Raises:
        InputError: if the file cannot be read, lacks a prompt, or is of another model.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}; tools/search_embeddings.py writes such a file") from error
    embeddings = {}
    for index in indices:
        if str(index) not in found or found[str(index)].shape != tuple(shape):
            raise InputError(f"{path} has no embedding of prompt {index} for this model; search again")
        embeddings[index] = found[str(index)]
    return embeddings
