"""What is added to a model behind its loading: LoRAs, merged into its weights, and tokens of textual inversion.

A LoRA is merged (W + scale * B A), so that a run costs what it costs without one and every gradient is that of the
tuned model; at scale 0 the weights are the base's, bit for bit. diffusers reads its own format, peft's and kohya's.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers.utils.logging
from diffusers.utils import is_peft_available
from safetensors import SafetensorError, safe_open

from memorization.errors import first_line
from memorization.models.families import parts_with_weights
from memorization.models.folders import looks_local

FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")
LORA_FILE = "pytorch_lora_weights.safetensors"  # as diffusers saves it
NAMELESS = "emb_params"  # what trainers call the vectors of a file that does not name its token
# In what torch, peft and diffusers say of layers that the model does not have.
MISFIT = ("size mismatch", "Target modules", "Incompatible keys")
DORA = "it is a DoRA, which at scale 0 is not the model without it; merge it into a model's folder"
MAGNITUDES = ("dora_scale", "lora_magnitude_vector")  # of a DoRA, in kohya's words and in peft's
UP = ("lora_B.weight", "lora_up.weight", "lora.up.weight", "lora_linear_layer.up.weight")  # one in each layer of a LoRA


# LoRA


def split_scale(text: str) -> tuple[str, float]:
    """(path or id, scale) out of `PATH_OR_ID[:SCALE]`; 1 without a scale.

    Raises:
        ValueError: if the scale is not finite.
    """
    name, colon, ending = text.rpartition(":")
    try:
        scale = float(ending)
    except ValueError:
        return text, 1.0
    if not colon or not name:
        return text, 1.0
    if not math.isfinite(scale):
        raise ValueError(f"the scale of LoRA {name} is {ending}; give a finite number")
    return name, scale


def merge_lora(pipe: Any, text: str) -> None:
    """Merge a LoRA into the denoiser and, where it has a part for it, the text encoder.

    Args:
        text: `PATH_OR_ID[:SCALE]`, a file, a folder with one, or a hub id.

    Raises:
        ValueError: one line: it cannot be read, peft is missing, it belongs to another model or is more than a LoRA.
    """
    name, scale = split_scale(text)
    if not is_peft_available():
        raise ValueError(f'LoRA {name} needs the package peft: pip install -e ".[lora]"')
    file = None if not looks_local(name) else weights_file(Path(name), "LoRA")
    try:
        with refused_dora():
            layers = lora_layers(pipe, name if file is None else str(file))
        shapes = weight_shapes(pipe)
        with quiet_injection():
            pipe.load_lora_weights(name if file is None else str(file), adapter_name="lora")
        merged = sum(1 for _ in tuned_layers(pipe))
        if merged < layers or not layers:
            raise ValueError(f"it has {layers} layers, of which this model has {merged}; it belongs to another model")
        if weight_shapes(pipe) != shapes:  # which diffusers does for Flux's LoRAs of depth and edges
            raise ValueError("it makes layers wider, for inputs that are not given here; it belongs to another model")
        pipe.fuse_lora(lora_scale=scale, safe_fusing=True)
        pipe.unload_lora_weights()
    except FAULTS as error:
        is_misfit = any(words in str(error) for words in MISFIT)
        fault = "its layers are not this model's; it belongs to another model" if is_misfit else first_line(error)
        raise ValueError(f"cannot merge LoRA {name}: {fault}") from error


@contextmanager
def quiet_injection() -> Iterator[None]:
    """Nothing of every layer that does not fit, which diffusers and peft say in hundreds of lines."""
    verbosity = diffusers.utils.logging.get_verbosity()
    diffusers.utils.logging.set_verbosity(diffusers.utils.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "While injecting the PEFT adapters", RuntimeWarning)
            yield
    finally:
        diffusers.utils.logging.set_verbosity(verbosity)


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def refused_dora() -> Iterator[None]:
    """What is read in the block, a file of any kind or of the hub, must be no DoRA.

    diffusers leaves out the magnitudes of most, and nothing but its warning tells; others it says are held back.

    Raises:
        ValueError: if it is one.
    """
    logger, kept = logging.getLogger("diffusers"), Kept()
    level, handlers = logger.level, logger.handlers
    logger.handlers = [kept]
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    if any("DoRA" in record.getMessage() for record in kept.records):
        raise ValueError(DORA)
    for record in kept.records:
        if record.levelno >= logger.getEffectiveLevel():
            logger.handle(record)


def weight_shapes(pipe: Any) -> list[tuple[int, ...]]:
    """Of what is in the denoiser but the matrices of a LoRA itself."""
    return [tuple(weight.shape) for name, weight in pipe.denoiser.named_parameters() if ".lora_" not in name]


def lora_layers(pipe: Any, name: str) -> int:
    """How many layers a LoRA changes, by its file.

    Raises:
        ValueError: if it has weights of norms as well, which are not kept when it is merged.
    """
    state = pipe.lora_state_dict(name)
    state = state[0] if isinstance(state, tuple) else state
    if any(word in key for key in state for word in MAGNITUDES):
        raise ValueError(DORA)
    norm = next((key for key in state if ".norm_" in key and "lora" not in key), None)
    if norm is not None:
        raise ValueError(f"it is more than a LoRA: it has {norm}")
    return sum(key.endswith(UP) for key in state)


def tuned_layers(pipe: Any) -> Iterator[object]:
    """Layers of the denoiser and the text encoders that a LoRA is attached to."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    parts = parts_with_weights(pipe).values()
    yield from (module for part in parts for module in part.modules() if isinstance(module, BaseTunerLayer))


def weights_file(path: Path, what: str) -> Path:
    """A file of weights, or the one that a folder has.

    Raises:
        ValueError: if there is none, or there are several.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"{what} {path} does not exist; give a file, a folder with one or a hub id")
    if (path / LORA_FILE).is_file():
        return path / LORA_FILE
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if len(files) != 1:
        raise ValueError(f"{what} folder {path} has {len(files)} files of weights; name the one that is meant")
    return files[0]


# Textual inversion


def add_embedding(pipe: Any, text: str) -> None:
    """Add a token of textual inversion to tokenizer and text encoder.

    Args:
        text: `PATH_OR_ID[:TOKEN]`. Without a token it is the file's own, or the file's name where that has none.

    Raises:
        ValueError: one line: it cannot be read, or is of a text encoder of another width.
    """
    name, token = split_token(text)
    try:
        if looks_local(name):
            file = weights_file(Path(name), "embedding")
            token = token or (file.stem if is_nameless(file) else None)
            pipe.load_textual_inversion(str(file.parent), weight_name=file.name, token=token)
        else:
            pipe.load_textual_inversion(name, token=token)
    except FAULTS as error:
        raise ValueError(f"cannot add embedding {name}: {first_line(error)}") from error


def split_token(text: str) -> tuple[str, str | None]:
    """(path or id, token) out of `PATH_OR_ID[:TOKEN]`."""
    name, colon, token = text.rpartition(":")
    return (name, token) if colon and name and token and not Path(text).exists() else (text, None)


def is_nameless(file: Path) -> bool:
    """Whether a file of textual inversion does not say what its token is called."""
    if file.suffix != ".safetensors":
        return False
    with safe_open(file, "pt") as tensors:
        return list(tensors.keys()) == [NAMELESS]
