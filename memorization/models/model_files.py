"""What a model's files say of it, read once before anything is loaded."""

from pathlib import Path

from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from memorization.errors import first_line
from memorization.models.families import SD, TRANSFORMER, Family, ModelFiles, family_of_index, family_of_keys
from memorization.models.folders import (
    KNOWN_FAMILIES,
    check_config_folder,
    check_model_folder,
    is_single_file,
    looks_local,
    refuse_missing_parts,
)

FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError)  # what a folder that is no model raises


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
    return check_model_folder(model_id, own_denoiser) if looks_local(model_id) else look_at_index(model_id)


def look_at_single_file(path: Path, config: str | None) -> ModelFiles:
    """What a checkpoint in one file is of, and what the folder or hub id says that it goes with.

    Raises:
        ValueError: if they are of different families, or a transformer lacks the folder of the other parts.
    """
    family = family_of_file(path)
    if config is None:
        if family.denoiser == TRANSFORMER:
            told = f"{path} is {family.name} in one file: its text encoders are not"
            raise ValueError(f"{told}; give by --config the folder or hub id of a whole model")
        return ModelFiles(family)
    files = look_at_index(config)
    if files.family is not family and (family is not SD or files.family.denoiser == TRANSFORMER):
        told = "" if family is SD else f", and {path} is {family.name}"
        raise ValueError(f"--config {config} is {files.family.name}{told or f', of which {path} holds no transformer'}")
    is_folder = family.denoiser == TRANSFORMER and looks_local(config)
    return check_model_folder(config, own_denoiser=False) if is_folder else files


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
