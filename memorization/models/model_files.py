"""What a model's files say of it, read once before anything is loaded."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from safetensors import SafetensorError, safe_open

from memorization.errors import first_line
from memorization.models.families import (
    SD,
    TRANSFORMER,
    UNET,
    VAE_IN_FILE,
    Family,
    ModelFiles,
    class_name,
    family_of_index,
    family_of_keys,
)
from memorization.models.folders import (
    KNOWN_FAMILIES,
    check_config_folder,
    check_model_folder,
    is_single_file,
    looks_local,
    refuse_missing_parts,
)

# What a folder or file that is no model raises.
FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError, SingleFileComponentError)


def look_at_files(model_id: str, config: str | Path | None, own_denoiser: bool) -> ModelFiles:
    """What a folder, a hub id or a single file holds.

    Args:
        config: of a single file: folder or hub id whose configs it goes with.
        own_denoiser: whether the model's own UNet or transformer is used.

    Raises:
        ValueError: one line, if it cannot be loaded.
    """
    if is_single_file(model_id):
        check_config_folder(model_id, config)
        return look_at_single_file(Path(model_id), None if config is None else str(config))
    if config is not None:
        raise ValueError(f"--config goes with a single file; {model_id} has configs of its own")
    if not looks_local(model_id):
        return look_at_index(model_id)
    return check_model_folder(model_id, without=() if own_denoiser else (UNET, TRANSFORMER))


def look_at_single_file(path: Path, config: str | None) -> ModelFiles:
    """What a checkpoint in one file is of, and what the folder or hub id says that it goes with.

    Raises:
        ValueError: if they are of different families, or a transformer lacks the folder of the other parts.
    """
    keys = keys_of_file(path)
    family = family_of_keys(keys)
    if config is None:
        if family.denoiser == TRANSFORMER:
            told = f"{path} is {family.name} in one file: not all that goes with it is in it"
            raise ValueError(f"{told}; give by --config the folder or hub id of a whole model")
        return ModelFiles(family)
    files = look_at_index(config)
    if files.family is not family and (family is not SD or files.family.denoiser == TRANSFORMER):
        told = "" if family is SD else f", and {path} is {family.name}"
        raise ValueError(f"--config {config} is {files.family.name}{told or f', of which {path} holds no transformer'}")
    if family.denoiser != TRANSFORMER:
        return files
    in_file = parts_in_file(keys, family, files.index)
    files = check_model_folder(config, without=in_file) if looks_local(config) else files
    return replace(files, in_file=in_file)


def parts_in_file(keys: Collection[str], family: Family, index: Mapping[str, Any]) -> frozenset[str]:
    """The parts of a model that a transformer's single file holds, out of those that the model has.

    Args:
        keys: of the file.
        index: model_index.json of the model whose configs it goes with.
    """
    encoders = {part for part, key in family.key_of_encoder.items() if key in keys}
    vae = {"vae"} if any(key.startswith(VAE_IN_FILE) for key in keys) else set()
    return frozenset(p for p in {TRANSFORMER} | vae | encoders if class_name(index.get(p)) is not None)


def look_at_index(name: str) -> ModelFiles:
    """What a folder's or a hub id's model_index.json says.

    Raises:
        ValueError: if it cannot be read, or is of no known family.
    """
    try:
        index = DiffusionPipeline.load_config(name)
    except FAULTS as error:
        raise ValueError(f"cannot load {name} as a Stable Diffusion pipeline: {first_line(error)}") from error
    family = family_of_index(index)
    if family is None:
        raise ValueError(f"{name} is none of {KNOWN_FAMILIES}: it is a {index.get('_class_name')}")
    refuse_missing_parts(index, name, family)
    return ModelFiles(family, index)


def family_of_file(path: Path) -> Family:
    """The family of a model in a single file, by the names of its weights.

    Raises:
        ValueError: if they cannot be read.
    """
    return family_of_keys(keys_of_file(path))


def keys_of_file(path: Path) -> set[str]:
    """Names of the weights in a single file; none of a pickle, which is not opened for that.

    Raises:
        ValueError: if they cannot be read.
    """
    if path.suffix != ".safetensors":
        return set()
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (OSError, SafetensorError) as error:
        raise ValueError(f"cannot load {path} as a Stable Diffusion pipeline: {first_line(error)}") from error
