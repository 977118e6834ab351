"""Content of a pipeline: what its runs are tied to, wherever its files lie."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate.utils.modeling import get_state_dict_offloaded_model
from huggingface_hub import try_to_load_from_cache

from memorization.bundled import find_bundled
from memorization.identity import content_of_files, content_of_tensors, names_of
from memorization.models.adapters import split_scale, split_token, weights_file
from memorization.models.families import TRANSFORMER, UNET, parts_with_weights
from memorization.models.folders import (
    check_model_folder,
    files_of_model,
    files_of_part,
    find_variant,
    is_single_file,
    part_folder,
)
from memorization.models.model_files import family_of_file, look_at_single_file

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


def pipeline_contents(pipe: "DenoisingPipeline", from_memory: bool = False) -> dict[str, str]:
    """Contents of `model_id` and of what is loaded beside it, by the settings' names; what cannot be found is left out.

    Args:
        from_memory: take the weights as they are loaded, of a pipeline that may have been changed since.
    """
    source = pipe.loaded_from
    if from_memory or source is None:
        parts = {name: weights_of(part) for name, part in parts_with_weights(pipe).items()}
        return {"model_id": content_of_tensors({f"{p}.{k}": v for p, state in parts.items() for k, v in state.items()})}
    beside = names_of(
        {
            "vae_id": part_content(source.vae_id, "vae"),
            "lora": content_of_added(source.lora, split_scale, "LoRA"),
            "embedding": content_of_added(source.embedding, split_token, "embedding"),
        }
    )
    if pipe.base is not None:
        beside |= names_of({"base_model_id": pipeline_contents(pipe.base).get("model_id")})
    return source_contents(source.model_id, source.unet_id, source.config, source.transformer_id) | beside


def weights_of(part: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """Weights of a part by name, wherever they lie: offloaded layer by layer, the part itself holds none."""
    is_elsewhere = any(weight.is_meta for weight in part.parameters())
    return get_state_dict_offloaded_model(part) if is_elsewhere else part.state_dict()


def source_contents(
    model_id: str, unet_id: str | None = None, config: str | None = None, transformer_id: str | None = None
) -> dict[str, str]:
    """Contents of a model and of another denoiser for it, without loading them; of the hub, what its cache has.

    Args:
        config: folder or hub id whose configs a single file goes with.

    Raises:
        ValueError: if a path is no model.
    """
    path = str(find_bundled(model_id))
    if is_single_file(path):
        model = single_file_content(Path(path), config)
    else:
        model = model_content(folder_of(path, "model_index.json"), unet_id is None and transformer_id is None)
    others = {"unet_id": part_content(unet_id, "unet"), "transformer_id": part_content(transformer_id, "transformer")}
    return names_of({"model_id": model} | others)


def folder_of(name: str, file: str) -> Path | None:
    """The folder of a model: that of the path, or the hub's snapshot in the cache."""
    if Path(name).is_dir():
        return Path(name)
    cached = try_to_load_from_cache(name, file)
    return Path(cached).parent if isinstance(cached, str) else None


def model_content(folder: Path | None, own_denoiser: bool) -> str | None:
    """Content of a model folder; without its denoiser where another takes its place."""
    if folder is None:
        return None
    without = () if own_denoiser else (UNET, TRANSFORMER)
    variant = check_model_folder(str(folder), without).variant
    return content_of_files(files_of_model(folder, variant, without), folder)


def single_file_content(path: Path, config: str | None) -> str | None:
    """Content of a checkpoint in one file, with the configs and the tokenizer that it is read by.

    Of a transformer in one file the weights of parts that are not in it decide the numbers as well.
    """
    folder = None if config is None else folder_of(config, "model_index.json")
    if folder is None:
        return content_of_files([path])
    if family_of_file(path).denoiser == TRANSFORMER:
        files = look_at_single_file(path, str(folder))
        configs = [folder / part / "config.json" for part in sorted(files.in_file)]
        return content_of_files([path, *configs, *files_of_model(folder, files.variant, files.in_file)])
    return content_of_files([path, *(f for f in files_of_model(folder, None) if f.suffix in (".json", ".txt"))])


def part_content(part_id: str | None, name: str) -> str | None:
    """Content of another denoiser or VAE."""
    folder = None if part_id is None else folder_of(part_id, "config.json")
    if folder is None:
        return None
    folder = part_folder(folder, name)
    return content_of_files(files_of_part(folder, find_variant([folder])), folder)


def content_of_added(texts: Sequence[str], split: Callable[[str], tuple[str, object]], what: str) -> str | None:
    """Content of LoRAs or embeddings in their order, each with its scale or token; None if one is not on the disk."""
    parts = []
    for name, value in map(split, texts):
        path = Path(name)
        found = content_of_files([weights_file(path, what)]) if path.exists() else None
        if found is None:
            return None
        parts.append([found, value])
    return f"files:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()}" if parts else None
