"""Content of a pipeline: what its runs are tied to, wherever its files lie."""

from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import try_to_load_from_cache

from memorization.bundled import find_bundled
from memorization.identity import content_of_files, content_of_tensors, names_of
from memorization.models.folders import (
    PARTS,
    check_model_folder,
    files_of_model,
    files_of_part,
    find_variant,
    unet_folder,
)

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline


def pipeline_contents(pipe: "LocalStableDiffusionPipeline", from_memory: bool = False) -> dict[str, str]:
    """Contents of `model_id` and `unet_id`, by these names; what cannot be found is left out.

    Args:
        from_memory: take the weights as they are loaded, of a pipeline that may have been changed since.
    """
    source = pipe.loaded_from
    if from_memory or source is None:
        parts = {part: getattr(pipe, part).state_dict() for part in PARTS}
        return {"model_id": content_of_tensors({f"{p}.{k}": v for p, state in parts.items() for k, v in state.items()})}
    return source_contents(source.model_id, source.unet_id)


def source_contents(model_id: str, unet_id: str | None = None) -> dict[str, str]:
    """The same of what lies under these names, without loading it; of the hub, what its cache has.

    Raises:
        ValueError: if a path is no model.
    """
    model = folder_of(str(find_bundled(model_id)), "model_index.json")
    unet = None if unet_id is None else folder_of(unet_id, "config.json")
    return names_of({"model_id": model_content(model, unet_id is None), "unet_id": unet_content(unet)})


def folder_of(name: str, file: str) -> Path | None:
    """The folder of a model: that of the path, or the hub's snapshot in the cache."""
    if Path(name).is_dir():
        return Path(name)
    cached = try_to_load_from_cache(name, file)
    return Path(cached).parent if isinstance(cached, str) else None


def model_content(folder: Path | None, own_unet: bool) -> str | None:
    """Content of a model folder; without its UNet where another takes its place."""
    if folder is None:
        return None
    variant = check_model_folder(str(folder), own_unet)
    return content_of_files(files_of_model(folder, variant, own_unet), folder)


def unet_content(folder: Path | None) -> str | None:
    if folder is None:
        return None
    folder = unet_folder(folder)
    return content_of_files(files_of_part(folder, find_variant([folder])), folder)
