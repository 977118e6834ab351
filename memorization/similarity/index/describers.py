"""What an index is made with: a copy descriptor, CLIP or DINO, each with what has to stand beside its numbers."""

import argparse
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from memorization.errors import InputError, first_line, input_errors
from memorization.identity import FileHashes, content_of_tensors
from memorization.similarity.descriptors import ClipSimilarity, CopyDescriptor, probe_pictures, refuse_other_outputs
from memorization.similarity.index.stored import OPENED_BY, StoredIndex
from memorization.similarity.measure import add_evaluator_options
from memorization.similarity.scales import TOLD, mean_over_scales

PROCESSED = ("size", "crop_size", "resample", "image_mean", "image_std")  # of a processor of transformers


@dataclass(frozen=True)
class Describer:
    """Unit descriptors of pictures, float32 (pictures, dim), and what they are of.

    Attributes:
        descriptor: its name.
        checkpoint: SHA-256 of its file, or of its weights.
        preprocessing: by name, or its numbers.
        dim: length of a descriptor.
        describe: from uint8 arrays (height, width, 3) to float tensors (pictures, dim).
    """

    descriptor: str
    checkpoint: str
    preprocessing: str
    dim: int
    describe: Callable[[Sequence[np.ndarray]], torch.Tensor]

    def __call__(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        """
        Raises:
            InputError: if the network fails on them, or does not give numbers.
        """
        with input_errors(), torch.no_grad():
            found = self.describe(pictures)
            refuse_other_outputs(self.descriptor, found, len(pictures))
        return torch.nn.functional.normalize(found.float(), dim=1).cpu().numpy()

    @property
    def identity(self) -> dict[str, str]:
        """What tells descriptors that compare from those that do not."""
        return {"descriptor": self.descriptor, "checkpoint": self.checkpoint, "preprocessing": self.preprocessing}


def add_describer_options(group: argparse._ActionsContainer) -> None:
    """What pictures are described by, in tools/index_training_set.py."""
    add_evaluator_options(group)
    group.add_argument("--dino", help="DINO or any vision transformer of transformers: a folder or hub id")
    text = "layer of --dino whose class token is taken, counted from the last"
    group.add_argument("--dino_layer", type=int, default=1, help=text)


@dataclass(frozen=True)
class DescriberSettings:
    """Which descriptor is wanted, by the names of the command line; one of the first three."""

    sscd: Path | str | None = None
    reference_model: str | None = None
    dino: str | None = None
    sscd_preprocessing: str | None = None
    reference_model_pretrain: str = "laion2b_s12b_b42k"
    dino_layer: int = 1
    multiscale: bool = False
    device: str = "cpu"

    def kept(self) -> dict[str, Any]:
        """What opens the same descriptor again."""
        given = {name: value for name, value in asdict(self).items() if name != "device"}
        return given | ({} if self.sscd is None else {"sscd": str(self.sscd)})

    def open(self) -> Describer:
        """
        Raises:
            InputError: if not one descriptor is given, or it cannot be had.
        """
        given = [name for name in ("sscd", "reference_model", "dino") if getattr(self, name) is not None]
        if len(given) != 1:
            told = " and ".join(f"--{name}" for name in given) or "none"
            raise InputError(f"pictures are described by one of --sscd, --reference_model and --dino, not by {told}")
        openers = {"sscd": sscd_describer, "reference_model": clip_describer, "dino": dino_describer}
        with input_errors():
            return openers[given[0]](self)


def open_as(
    index: StoredIndex, sscd: Path | str | None = None, sscd_preprocessing: str | None = None, device: str = "cpu"
) -> Describer:
    """The descriptor that an index names; whether it is still the same one, `StoredIndex.refuse_other` says.

    Args:
        sscd, sscd_preprocessing: as they are now, where the file was moved.

    Raises:
        InputError: if it cannot be had.
    """
    given = {"sscd": sscd, "sscd_preprocessing": sscd_preprocessing}
    moved = {name: value for name, value in given.items() if value is not None}
    return DescriberSettings(**{**index.header[OPENED_BY], **moved, "device": device}).open()


def sscd_describer(settings: DescriberSettings) -> Describer:
    model = CopyDescriptor(str(settings.sscd), settings.sscd_preprocessing, settings.device, settings.multiscale)
    hashes = FileHashes()
    checkpoint = hashes.of(model.path)
    hashes.save()
    dim = model(probe_pictures()[:1]).shape[1]
    return Describer(model.path.name, checkpoint, model.preprocessing, dim, model)


def clip_describer(settings: DescriberSettings) -> Describer:
    """
    Raises:
        ValueError: one line, if it cannot be loaded, or is asked for several scales.
    """
    import open_clip

    if settings.multiscale:
        raise ValueError("CLIP takes pictures of one size: leave --multiscale out")
    clip = ClipSimilarity(str(settings.reference_model), settings.reference_model_pretrain, settings.device)

    def features(pictures: Sequence[np.ndarray]) -> torch.Tensor:
        return clip.features(pictures)  # type: ignore[arg-type]  # it goes through them one by one

    told = json.dumps(open_clip.get_model_preprocess_cfg(clip.model))
    dim = features(probe_pictures()[:1]).shape[1]
    return Describer(f"CLIP {clip.description}", sha256_of(clip.model), told, dim, features)


def dino_describer(settings: DescriberSettings) -> Describer:
    """
    Raises:
        ValueError: one line, if it cannot be loaded, or has no such layer.
    """
    from transformers import AutoImageProcessor, AutoModel

    name, layer = str(settings.dino), settings.dino_layer
    try:
        processor, model = AutoImageProcessor.from_pretrained(name), AutoModel.from_pretrained(name)
    except Exception as error:  # the hub client and transformers raise many kinds; all mean no model
        raise ValueError(f"cannot load --dino {name}: {first_line(error)}") from error
    model = model.to(settings.device).eval()
    layers = getattr(model.config, "num_hidden_layers", 0)
    if not 1 <= layer <= layers:
        raise ValueError(f"--dino_layer {layer} is none of the layers 1 to {layers} of {name}")

    anysize = {"interpolate_pos_encoding": True} if takes_interpolation_flag(model) and settings.multiscale else {}

    def class_tokens(batch: torch.Tensor) -> torch.Tensor:
        found = model(batch, output_hidden_states=True, **anysize)
        return (found.last_hidden_state if layer == 1 else found.hidden_states[-layer])[:, 0]

    def describe(pictures: Sequence[np.ndarray]) -> torch.Tensor:
        batch = processor(images=[Image.fromarray(p) for p in pictures], return_tensors="pt").to(settings.device)
        shown = batch["pixel_values"]
        return mean_over_scales(class_tokens, shown) if settings.multiscale else class_tokens(shown)

    values: Mapping[str, Any] = processor.to_dict()
    told = json.dumps({key: values[key] for key in PROCESSED if values.get(key) is not None}, default=str)
    told += TOLD if settings.multiscale else ""
    with torch.no_grad():
        dim = describe(probe_pictures()[:1]).shape[1]
    called = f"{Path(name).name}, layer {layer} from the last"
    return Describer(called, sha256_of(model), told, dim, describe)


def takes_interpolation_flag(model: torch.nn.Module) -> bool:
    """Whether a transformer has to be asked to interpolate its positions; others, as DINOv2's, always do."""
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def sha256_of(model: torch.nn.Module) -> str:
    return content_of_tensors(model.state_dict()).removeprefix("tensors:")
