"""Stable Diffusion 3 or Flux.1 in one file: the transformer and what is beside it; the rest is in a folder."""

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from memorization.errors import first_line, warn
from memorization.models.families import IN_FILE, PIPELINES, TRANSFORMER, ModelFiles
from memorization.models.model_files import FAULTS, keys_of_file

TEXT_BEGINS = ("text_encoders.", "conditioner.embedders.", "text_encoder.")
# Blocks that a file numbers, and what a config calls their number.
BLOCKS = {"joint_blocks": "num_layers", "double_blocks": "num_layers", "single_blocks": "num_single_layers"}
GUIDANCE = "guidance_in.in_layer.weight"


def transformer_parts(path: str, files: ModelFiles, config: str, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """The parts that a file holds, by their folders' names: the transformer, and maybe a VAE and text encoders.

    Args:
        files: what was found in it.
        config: folder or hub id of a whole model of the same shape.

    Raises:
        ValueError: one line, if they cannot be read, or are of another shape.
    """
    family, keys = files.family, keys_of_file(Path(path))
    unread = unread_encoders(keys, files)
    if unread:
        warn(f"{path} has {' and '.join(unread)}, not read: the text encoders are those of --config {config}")
    cls = getattr(diffusers, PIPELINES[family])
    absent = dict.fromkeys(set(inspect.signature(cls.__init__).parameters) - files.in_file - {"self"})
    try:
        values = getattr(diffusers, family.denoiser_class).load_config(config, subfolder=TRANSFORMER)
        refuse_other_shape(path, keys, values, config)
        pipe = cls.from_single_file(path, config=config, torch_dtype=dtype, **absent)
    except (*FAULTS, RuntimeError) as error:
        raise ValueError(f"cannot load {path} with --config {config}: {told_fault(error)}") from error
    found = {part: getattr(pipe, part) for part in files.in_file}
    refuse_missing_weights(path, found)
    return found


def told_fault(error: Exception) -> str:
    """What diffusers' error says in one line; of weights that are not in a file it says how to move such a model."""
    is_of_meta = isinstance(error, NotImplementedError) and "meta tensor" in str(error)
    return "it lacks weights that the configs ask for" if is_of_meta else first_line(error)


def refuse_missing_weights(path: str, parts: Mapping[str, torch.nn.Module]) -> None:
    """
    Args:
        parts: as diffusers read them from the file, by their folders' names; tied weights are tied.

    Raises:
        ValueError: if a weight of one was not in the file, which diffusers leaves without values and says nothing.
    """
    for part, module in parts.items():
        tie: Any = getattr(module, "tie_weights", None)  # of transformers' modules
        if tie is not None:
            tie()
        lacking = next((name for name, weight in module.named_parameters() if weight.is_meta), None)
        if lacking is not None:
            raise ValueError(f"cannot load {path}: it has no {lacking} of the {part}")


def unread_encoders(keys: Iterable[str], files: ModelFiles) -> list[str]:
    """Text encoders of a file that are not among its parts, by the beginnings of their weights' names."""
    read = {
        files.family.key_of_encoder[p].rsplit(".transformer.")[0]
        for p in files.in_file & set(files.family.text_encoders)
    }
    return sorted({".".join(key.split(".")[:2]) for key in keys if key.startswith(TEXT_BEGINS)} - read)


def refuse_other_shape(path: str, keys: Iterable[str], values: Mapping[str, Any], config: str) -> None:
    """What diffusers would leave out of a file, or make up, without a word.

    Args:
        keys: of the file.
        values: of the config.

    Raises:
        ValueError: if the file has other blocks than the config, or guidance where it has none, or the reverse.
    """
    names = [key.removeprefix(IN_FILE) for key in keys]
    for block, number in BLOCKS.items():
        count = len({name.split(".")[1] for name in names if name.startswith(f"{block}.")})
        if count and count != values.get(number, count):
            raise ValueError(f"it has {count} {block}, the config {values[number]}")
    if "guidance_embeds" in values and values["guidance_embeds"] != (GUIDANCE in names):
        told = ("takes no guidance scale", "is told the guidance scale")[GUIDANCE in names]
        raise ValueError(f"it {told}, unlike the config's model: dev and schnell are different ones")
