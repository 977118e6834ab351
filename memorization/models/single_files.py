"""A transformer of Stable Diffusion 3 or Flux.1 in one file, whose other parts are in a folder of the same model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL

from memorization.errors import first_line, warn
from memorization.models.families import IN_FILE, TRANSFORMER, Family
from memorization.models.model_files import FAULTS, keys_of_file

VAE_BEGINS = "first_stage_model."
TEXT_BEGINS = ("text_encoders.", "conditioner.embedders.", "text_encoder.")
# Blocks that a file numbers, and what a config calls their number.
BLOCKS = {"joint_blocks": "num_layers", "double_blocks": "num_layers", "single_blocks": "num_single_layers"}
GUIDANCE = "guidance_in.in_layer.weight"


def transformer_parts(path: str, family: Family, config: str, dtype: torch.dtype) -> dict[str, torch.nn.Module]:
    """The transformer of a file and, where it is there, its VAE, by their folders' names.

    Args:
        config: folder or hub id of a whole model of the same shape.

    Raises:
        ValueError: one line, if they cannot be read, or are of another shape.
    """
    keys, cls = keys_of_file(Path(path)), getattr(diffusers, family.denoiser_class)
    if any(key.startswith(TEXT_BEGINS) for key in keys):
        warn(f"{path} has text encoders of its own, which are not read: those of --config {config} are used")
    try:
        refuse_other_shape(path, keys, cls.load_config(config, subfolder=TRANSFORMER), config)
        how = {"config": config, "torch_dtype": dtype}
        found = {TRANSFORMER: cls.from_single_file(path, subfolder=TRANSFORMER, **how)}
        if any(key.startswith(VAE_BEGINS) for key in keys):
            found["vae"] = AutoencoderKL.from_single_file(path, subfolder="vae", **how)
    except (*FAULTS, RuntimeError) as error:
        raise ValueError(f"cannot load {path} with --config {config}: {first_line(error)}") from error
    for part, module in found.items():
        lacking = next((name for name, weight in module.named_parameters() if weight.is_meta), None)
        if lacking is not None:
            raise ValueError(f"{path} has no {lacking}, which the {part} of --config {config} has")
    return found


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
