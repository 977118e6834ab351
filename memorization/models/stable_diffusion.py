"""Loading Stable Diffusion 1, 2, XL, 3 and Flux.1 for measurement."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import diffusers.utils.logging
import torch
import transformers.utils.logging
from diffusers import AutoencoderKL

from local_sd_pipeline import DenoisingPipeline, LocalStableDiffusionPipeline, Source
from memorization.bundled import find_bundled
from memorization.errors import first_line
from memorization.models.adapters import add_embedding, merge_lora
from memorization.models.devices import check_offload, pick_device, pick_dtype, place
from memorization.models.families import (
    FLUX,
    SD,
    SD3,
    SDXL,
    TRANSFORMER,
    UNET,
    Family,
    ModelFiles,
    class_name,
    parts_with_weights,
)
from memorization.models.flux import LocalFluxPipeline
from memorization.models.folders import (
    check_denoiser,
    check_part_folder,
    check_transformer,
    is_single_file,
    looks_local,
)
from memorization.models.model_files import FAULTS, look_at_files
from memorization.models.schedulers import ddim_of, flow_of, has_former_values
from memorization.models.single_files import refuse_missing_weights, told_fault, transformer_parts
from memorization.models.stable_diffusion_3 import LocalStableDiffusion3Pipeline
from memorization.models.stable_diffusion_xl import LocalStableDiffusionXLPipeline

# Of each family the class, and what of its parts is left out.
CLASSES: dict[Family, tuple[Any, dict[str, Any]]] = {
    SD: (LocalStableDiffusionPipeline, {"safety_checker": None, "requires_safety_checker": False}),
    SDXL: (LocalStableDiffusionXLPipeline, {"add_watermarker": False}),
    SD3: (LocalStableDiffusion3Pipeline, {"image_encoder": None, "feature_extractor": None}),
    FLUX: (LocalFluxPipeline, {"image_encoder": None, "feature_extractor": None}),
}


def load_pipeline(
    model_id: str | Path,
    unet_id: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    channels_last: bool = False,
    compile: bool = False,
    *,
    transformer_id: str | Path | None = None,
    vae_id: str | Path | None = None,
    lora: Sequence[str] = (),
    embedding: Sequence[str] = (),
    config: str | Path | None = None,
    offload: str = "none",
) -> DenoisingPipeline:
    """Load Stable Diffusion 1, 2, XL, 3 or Flux.1 for measurement: DDIM or flow matching's Euler, no gradients.

    Args:
        model_id: folder in diffusers' layout, hub id, single file, or the name of the bundled model, planted_sd.
        unet_id: folder or hub id of another UNet for it (a folder with a `unet` subfolder works too).
        device: "auto" takes CUDA, then MPS, then the CPU.
        dtype: "auto" is float16 on CUDA, bfloat16 for Stable Diffusion 3 and Flux.1, and float32 elsewhere.
        channels_last: memory format of the UNet and the VAE; changes results by rounding alone.
        compile: torch.compile the UNet or transformer, at its first call; changes results by rounding alone.
        transformer_id: the same as `unet_id` of a transformer.
        vae_id: folder or hub id of another VAE, as of `unet_id`.
        lora: `PATH_OR_ID[:SCALE]` each, merged into the weights in this order.
        embedding: `PATH_OR_ID[:TOKEN]` each, tokens of textual inversion.
        config: of a single file: folder or hub id whose configs, tokenizer and scheduler it goes with, so that nothing
            is fetched; by default diffusers guesses by the file and fetches them. Of a transformer in one file also
            its text encoders, and its VAE where the file has none.
        offload: "model" has one part at a time on the CUDA device, "sequential" one layer, "none" all of them.

    Raises:
        ValueError: one line that names the fault: not there, of no known family, a UNet or transformer that needs other
            inputs, a scheduler that cannot be used, half precision on a device that lacks it, a LoRA of another model,
            offloading without CUDA.
    """
    device = pick_device(device)
    check_offload(offload, device, compile)
    model_id = str(find_bundled(model_id)) if find_bundled(model_id).exists() else str(model_id)
    with quiet_loading(is_local=Path(model_id).exists()):
        files = look_at_files(model_id, config, own_denoiser=unet_id is None and transformer_id is None)
        family = files.family
        refuse_other_options(model_id, family, unet_id, transformer_id, embedding)
        torch_dtype = pick_dtype(dtype, device, family.half)
        others = {
            name: load_part(name, str(part_id), torch_dtype, family)
            for name, part_id in ((UNET, unet_id), (TRANSFORMER, transformer_id), ("vae", vae_id))
            if part_id is not None
        }
        if is_single_file(model_id) and family.denoiser == TRANSFORMER:
            held = transformer_parts(model_id, files, str(config), torch_dtype)
            pipe = load_parts(str(config), files, torch_dtype, held | others)
        elif is_single_file(model_id):
            pipe = load_single_file(model_id, family, config, torch_dtype, others)
        else:
            pipe = load_parts(model_id, files, torch_dtype, others)
    if not isinstance(pipe.denoiser, getattr(diffusers, family.denoiser_class)):
        raise ValueError(f"{model_id} is no {family.name} model: it has no {family.denoiser_class}")
    check_denoiser(configs_of(pipe), str(unet_id or transformer_id or model_id), family)
    is_former = family.denoiser != UNET or has_former_values(pipe.scheduler)
    for text in embedding:
        add_embedding(pipe, text)
    for text in lora:
        merge_lora(pipe, text)
    prepare(pipe, family, device, channels_last, offload)
    pipe.loaded_from = Source(
        model_id,
        unet_id=None if unet_id is None else str(unet_id),
        transformer_id=None if transformer_id is None else str(transformer_id),
        vae_id=None if vae_id is None else str(vae_id),
        config=None if config is None else str(config),
        lora=tuple(lora),
        embedding=tuple(embedding),
        former_scheduler=is_former,
    )
    if compile:
        pipe.denoiser.compile()
    return pipe


def refuse_other_options(
    model_id: str,
    family: Family,
    unet_id: str | Path | None,
    transformer_id: str | Path | None,
    embedding: Sequence[str],
) -> None:
    """
    Raises:
        ValueError: one line, if an option is of another family.
    """
    if embedding and family is not SD:
        raise ValueError(f"--embedding is read for {SD.name}, and {model_id} is {family.name}")
    for part, given in ((UNET, unet_id), (TRANSFORMER, transformer_id)):
        if given is not None and part != family.denoiser:
            raise ValueError(f"--{part}_id has no place here: {model_id} is {family.name}, give --{family.denoiser}_id")


def configs_of(pipe: DenoisingPipeline) -> dict[str, Mapping[str, Any]]:
    """Config values of the parts of a loaded pipeline, by their names."""
    configs = {name: part.config for name, part in parts_with_weights(pipe).items()}
    return {name: config if isinstance(config, Mapping) else config.to_dict() for name, config in configs.items()}


def attach_base(pipe: DenoisingPipeline, base: DenoisingPipeline) -> None:
    """Give a tuned model its base, for what compares them.

    Raises:
        ValueError: if they differ in what they generate from, so that no noise can be given to both.
    """
    values = [
        (p.family_name, p.denoiser.config.in_channels, p.native_length, p.scheduler.config.get("prediction_type"))
        for p in (pipe, base)
    ]
    if values[0] != values[1]:
        names = [p.loaded_from.model_id if p.loaded_from is not None else "the model" for p in (base, pipe)]
        what = "family, channels, size in pixels, prediction"
        raise ValueError(f"{names[0]} is no base of {names[1]}: {what} are {values[1]} and {values[0]}")
    pipe.base = base


def prepare(pipe: DenoisingPipeline, family: Family, device: str, channels_last: bool, offload: str) -> None:
    """Its scheduler, no progress bar, no gradients, on its device."""
    pipe.scheduler = ddim_of(pipe.scheduler) if family.denoiser == UNET else flow_of(pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    for part in parts_with_weights(pipe).values():
        part.eval().requires_grad_(False)
    for module in (pipe.denoiser, pipe.vae) if channels_last else ():
        module.to(memory_format=torch.channels_last)
    place(pipe, device, offload)


@contextmanager
def quiet_loading(is_local: bool) -> Iterator[None]:
    """No loading bars of other libraries for a model on the disk; what is downloaded keeps its bar."""
    loggers = (diffusers.utils.logging, transformers.utils.logging) if is_local else ()
    for logger in loggers:
        logger.disable_progress_bar()
    try:
        with warnings.catch_warnings():  # ours is another scheduler, with the values that are asked for there
            warnings.filterwarnings("ignore", "The configuration file of this scheduler", FutureWarning)
            yield
    finally:
        for logger in loggers:
            logger.enable_progress_bar()


def load_parts(
    model_id: str, files: ModelFiles, dtype: torch.dtype, others: Mapping[str, torch.nn.Module]
) -> DenoisingPipeline:
    """A model of a folder or of the hub, with other parts in place of its own.

    Raises:
        ValueError: if it cannot be loaded.
    """
    cls, options = CLASSES[files.family]
    absent = {part: None for part in files.family.optional if class_name(files.index.get(part)) is None}
    load = partial(cls.from_pretrained, model_id, dtype=dtype, **options, **absent, **others)
    try:
        return load(variant=files.variant)
    except FAULTS as error:
        if files.variant is None and not looks_local(model_id):  # a repository may have nothing else
            with suppress(*FAULTS):
                return load(variant="fp16")
        raise ValueError(f"cannot load {model_id} as a Stable Diffusion pipeline: {first_line(error)}") from error


def load_single_file(
    path: str, family: Family, config: str | Path | None, dtype: torch.dtype, others: Mapping[str, torch.nn.Module]
) -> DenoisingPipeline:
    """
    Raises:
        ValueError: if it cannot be loaded.
    """
    given = None if config is None else str(config)
    cls, options = CLASSES[family]
    try:
        pipe = cls.from_single_file(path, config=given, torch_dtype=dtype, **options, **others)
    except (*FAULTS, RuntimeError) as error:
        raise ValueError(f"cannot load {path} as a Stable Diffusion pipeline: {told_fault(error)}") from error
    refuse_missing_weights(path, parts_with_weights(pipe))
    return pipe


def load_part(name: str, part_id: str, dtype: torch.dtype, family: Family) -> torch.nn.Module:
    """Another denoiser or VAE, from a folder of its own or out of a model's.

    Args:
        name: `unet`, `transformer` or `vae`.
        family: of the model that it is for.

    Raises:
        ValueError: if there is none.
    """
    cls = AutoencoderKL if name == "vae" else getattr(diffusers, family.denoiser_class)
    what = {UNET: "UNet", "vae": "VAE"}.get(name, name)
    subfolder, variant = check_part_folder(part_id, name, what)
    try:
        config = cls.load_config(part_id, subfolder=subfolder)  # diffusers makes a part out of another class's as well
        if name == TRANSFORMER:
            check_transformer(config, None, None, None, part_id, family)
        if config.get("_class_name", cls.__name__) != cls.__name__:
            raise ValueError(f"it is a {config['_class_name']}, no {cls.__name__}")
        return cls.from_pretrained(part_id, subfolder=subfolder, variant=variant, dtype=dtype)
    except FAULTS as error:
        if variant is None and not looks_local(part_id):
            with suppress(*FAULTS):
                return cls.from_pretrained(part_id, variant="fp16", dtype=dtype)
        raise ValueError(f"cannot load a {what} from {part_id}: {first_line(error)}") from error
