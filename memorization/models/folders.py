"""Model folders in diffusers' layout, looked at before anything is loaded: what they lack, and what they hold."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from memorization.models.families import SD, UNET, Family, ModelFiles, class_name, family_of_index

KNOWN_FAMILIES = "Stable Diffusion 1, 2, XL, 3 or Flux.1"
STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # of weights, in diffusers' and transformers' words
FORMATS = ("safetensors", "bin")  # the first that is there is loaded
CHECKPOINTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")  # suffixes of single files
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
# Inputs that are not given here, by the names of a UNet's config; `added conditions` are SDXL's in one form.
OTHER_INPUTS = {
    "class_embed_type": "a class",
    "num_class_embeds": "a class",
    "time_cond_proj_dim": "a guidance embedding",
    "addition_embed_type": "added conditions",
    "encoder_hid_dim": "projected conditions",
    "encoder_hid_dim_type": "projected conditions",
}


def looks_local(model_id: str) -> bool:
    """Whether a name is that of a path rather than a hub id."""
    return Path(model_id).exists() or model_id.startswith((".", "/", "~")) or model_id.count("/") != 1


def check_model_folder(model_id: str, without: Collection[str] = ()) -> ModelFiles:
    """What a model folder holds; early, and in one line, why a local path cannot be one.

    Args:
        without: parts of it that are not used, whose weights may be absent.

    Raises:
        ValueError: if it cannot.
    """
    path = Path(model_id)
    refuse_missing_file(path)
    if not path.is_dir():
        raise ValueError(f"model folder {model_id} does not exist; give a diffusers folder or a hub id")
    index = path / "model_index.json"
    if not index.exists():
        raise ValueError(f"{model_id} is not a Stable Diffusion folder: it has no model_index.json")
    values = read_json(index)
    family = family_of_index(values)
    if family is None:
        raise ValueError(f"{model_id} is no folder of {KNOWN_FAMILIES}: see its model_index.json")
    refuse_missing_parts(values, model_id, family)
    parts = [part for part in family.parts_of(values) if part not in without]
    if family.denoiser not in without:
        check_denoiser({part: read_json(path / part / "config.json") for part in parts}, model_id, family)
    return ModelFiles(family, values, find_variant([path / part for part in parts]))


def refuse_missing_parts(index: Mapping[str, Any], name: str, family: Family) -> None:
    """
    Raises:
        ValueError: if a model_index.json has no text encoder or tokenizer that the family cannot do without.
    """
    needed = [part for part in (*family.text_encoders, *family.tokenizers) if part not in family.optional]
    missing = next((part for part in needed if class_name(index.get(part)) is None), None)
    if missing is not None:
        raise ValueError(f"{name} has no {missing}, which {family.name} cannot do without")


def is_single_file(model_id: str) -> bool:
    """Whether a path is a checkpoint in one file."""
    return Path(model_id).is_file()


def check_config_folder(model_id: str, config: str | Path | None) -> None:
    """Say early why a single file cannot be loaded with the configs of a folder.

    Raises:
        ValueError: if the file is no checkpoint, or the folder is no model's.
    """
    if Path(model_id).suffix not in CHECKPOINTS:
        raise ValueError(f"{model_id} is no checkpoint: its name ends in none of {', '.join(CHECKPOINTS)}")
    if config is not None and looks_local(str(config)) and not (Path(config) / "model_index.json").is_file():
        raise ValueError(f"--config {config} is not a Stable Diffusion folder: it has no model_index.json")


def check_part_folder(part_id: str, name: str, what: str) -> tuple[str | None, str | None]:
    """(subfolder, variant) to load a part of a model with; both None of a hub id.

    Args:
        name, what: the part's folder in a model, and its name in messages.

    Raises:
        ValueError: one line, if there is none at a local path.
    """
    path = Path(part_id)
    if not looks_local(part_id):
        return None, None
    refuse_single_file(path, what)
    if not path.is_dir():
        raise ValueError(f"cannot load a {what} from {part_id}: it does not exist; give a diffusers folder or a hub id")
    folder = part_folder(path, name)
    if not (folder / "config.json").is_file():
        raise ValueError(f"cannot load a {what} from {part_id}: it has no config.json")
    return None if folder == path else folder.name, find_variant([folder])


def part_folder(path: Path, name: str) -> Path:
    """Where a part lies: in the folder itself, or in its subfolder of this name."""
    return path / name if (path / name).is_dir() else path


def refuse_missing_file(path: Path) -> None:
    """
    Raises:
        ValueError: if the path would be a checkpoint in one file, and there is none.
    """
    if not path.exists() and path.suffix in CHECKPOINTS:
        raise ValueError(f"{path} does not exist; give a single file, a diffusers folder or a hub id")


def refuse_single_file(path: Path, what: str) -> None:
    """
    Raises:
        ValueError: if the path is a checkpoint in one file.
    """
    refuse_missing_file(path)
    if path.is_file():
        raise ValueError(
            f"{path} is a single file: a {what} is read from a folder in diffusers' layout; a whole model's single "
            "file goes to --model_id"
        )


def read_json(path: Path) -> Mapping[str, Any]:
    """A JSON object; empty where there is none to be read, which the loader then says in its own words."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def check_denoiser(configs: Mapping[str, Mapping[str, Any]], name: str, family: Family) -> None:
    """Refuse a UNet or transformer that does not go with the other parts.

    Args:
        configs: of the parts that the model has; what one does not say is not compared.
        name: of the model the denoiser is of, for the message.

    Raises:
        ValueError: one line that says what does not fit.
    """
    config, channels = configs[family.denoiser], configs["vae"].get("latent_channels")
    encoders = [configs[part] for part in family.text_encoders if part in configs]
    if family.denoiser == UNET:
        check_unet(config, channels, total([c.get("hidden_size") for c in encoders]), name, family)
        return
    pooled = total([c.get(key) for c, key in zip(encoders, family.pooled, strict=False)])
    check_transformer(config, channels, encoders[-1].get("d_model"), pooled, name, family)


def total(widths: Sequence[int | None]) -> int | None:
    """The sum; None where one is not known."""
    known = [width for width in widths if width is not None]
    return sum(known) if len(known) == len(widths) else None


def check_transformer(
    config: Mapping[str, Any],
    latent_channels: int | None,
    text_width: int | None,
    pooled_width: int | None,
    name: str,
    family: Family,
) -> None:
    """Refuse a transformer that is of another family, or needs other inputs than its own.

    Args:
        config: of the transformer.
        latent_channels, text_width, pooled_width: of the VAE, of T5, of CLIP's pooled features; None is not compared.

    Raises:
        ValueError: one line that says what does not fit.
    """
    if config.get("_class_name", family.denoiser_class) != family.denoiser_class:
        raise ValueError(f"the transformer of {name} is a {config['_class_name']}: it is none of {family.name}")
    channels = config.get("in_channels")
    if channels is not None and config.get("out_channels") not in (None, channels):
        raise ValueError(
            f"the transformer of {name} has {channels} input and {config['out_channels']} output channels: models for "
            "filling in, depth and the like need inputs that are not given here"
        )
    latent = None if latent_channels is None else latent_channels * family.packing
    for key, what, width in (
        ("in_channels", "input channels, the VAE's latents", latent),
        ("joint_attention_dim", "for the width of the text, the text encoder's", text_width),
        ("pooled_projection_dim", "for the width of pooled text, the text encoders'", pooled_width),
    ):
        if width is not None and config.get(key) not in (None, width):
            raise ValueError(f"the transformer of {name} has {config[key]} {what} {width}: it is of another model")


def check_unet(
    config: Mapping[str, Any], latent_channels: int | None, text_width: int | None, name: str, family: Family
) -> None:
    """Refuse a UNet that needs other inputs than its family's.

    Args:
        config: of the UNet; what it does not name is Stable Diffusion's.
        latent_channels, text_width: of the VAE and the text encoder that it goes with; None is not compared.
        name, family: of the model, for the message and for what it may need.

    Raises:
        ValueError: one line that says what else it needs.
    """
    given = {"addition_embed_type": family.added_conditions}
    different = [(key, what) for key, what in OTHER_INPUTS.items() if config.get(key) != given.get(key)]
    if different:
        key, what = different[0]
        has = "has no" if config.get(key) is None else "needs"
        raise ValueError(f"the UNet of {name} {has} {what} ({key}): it is none of {family.name}")
    channels = config.get("in_channels", 4), config.get("out_channels", 4)
    if channels[0] != channels[1] or latent_channels not in (None, channels[0]):
        of_vae = "" if latent_channels is None else f", of latents with {latent_channels}"
        raise ValueError(
            f"the UNet of {name} has {channels[0]} input and {channels[1]} output channels{of_vae}: models for "
            "inpainting, depth and the like need inputs that are not given here"
        )
    width = config.get("cross_attention_dim", text_width)
    widths = set(width) if isinstance(width, list | tuple) else {width}
    if text_width is not None and widths != {text_width}:
        raise ValueError(
            f"the UNet of {name} reads text features of width {width}, the text encoder's are {text_width}"
        )
    size = config.get("sample_size")
    if isinstance(size, list | tuple) and len(set(size)) != 1:
        raise ValueError(f"the UNet of {name} has sample_size {list(size)}: only square images are made here")


def find_variant(folders: Sequence[Path]) -> str | None:
    """The variant of weights that has to be asked for, because a folder has no others: fp16 where there is one.

    Raises:
        ValueError: if a folder has no weights at all.
    """
    for folder in folders:
        if find_weights(folder):
            continue
        found = [name for stem in STEMS for name in variants_of(folder, stem)]
        if not found:
            raise ValueError(f"{folder} has no weights, as {STEMS[0]}.safetensors; complete the folder")
        return "fp16" if "fp16" in found else found[0]
    return None


def variants_of(folder: Path, stem: str) -> list[str]:
    """Names between stem and suffix, as fp16 in model.fp16.safetensors, of which there is a file."""
    names = sorted(p.name for f in FORMATS for p in folder.glob(f"{stem}.*.{f}"))
    return [parts[1] for parts in (name.split(".") for name in names) if len(parts) == 3]


def find_weights(folder: Path, variant: str | None = None) -> list[Path]:
    """The files of weights that loading a part with this variant takes: one, or the shards of an index."""
    infix = "" if variant is None else f".{variant}"
    for form in FORMATS:
        for stem in STEMS:
            single, index = folder / f"{stem}{infix}.{form}", folder / f"{stem}.{form}.index{infix}.json"
            if single.is_file():
                return [single]
            shards = read_json(index).get("weight_map", {})
            if isinstance(shards, dict) and shards:
                return sorted({folder / str(name) for name in shards.values()})
    return find_weights(folder) if variant is not None else []


def files_of_part(folder: Path, variant: str | None) -> list[Path]:
    """What decides the numbers of a denoiser, a VAE or a text encoder."""
    return [folder / "config.json", *find_weights(folder, variant)]


def files_of_model(folder: Path, variant: str | None, without: Collection[str] = ()) -> list[Path]:
    """What decides the numbers of a model folder, but for its scheduler, whose values are kept by name.

    Args:
        without: parts of it that are not used.
    """
    family = family_of_index(read_json(folder / "model_index.json")) or SD
    parts = [part for part in family.parts if part not in without]
    tokenizers = [folder / tokenizer / name for tokenizer in family.tokenizers for name in TOKENIZER_FILES]
    files = [path for part in parts for path in files_of_part(folder / part, variant)] + tokenizers
    return [path for path in files if path.is_file()]
