"""What a copy descriptor is shown: pictures resized and normalised, by name, as it is part of the metric."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

HALVES, IMAGENET = ((0.5,) * 3, (0.5,) * 3), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# `wen` is that of Wen et al. and the papers after them, `official_*` are the SSCD authors' advice.
SSCD_PREPROCESSING = {
    "wen": ([transforms.Resize(256), transforms.CenterCrop(224)], HALVES),
    "official_288": ([transforms.Resize(288)], IMAGENET),
    "official_320": ([transforms.Resize((320, 320))], IMAGENET),
}
# Of ONNX files that take bytes and normalise them inside: a square by Pillow's bicubic.
BYTES_PREPROCESSING = {"bytes_288": transforms.Resize((288, 288), transforms.InterpolationMode.BICUBIC)}
PREPROCESSING = (*SSCD_PREPROCESSING, *BYTES_PREPROCESSING)
USUAL, USUAL_OF_BYTES = "wen", "bytes_288"


def sscd_transform(name: str) -> transforms.Compose:
    """Preprocessing of a copy descriptor: PIL image to float32 tensor (3, height, width).

    That of files which take bytes gives a uint8 tensor (height, width, 3).

    Raises:
        ValueError: for a name that is none of `PREPROCESSING`.
    """
    if name not in PREPROCESSING:
        raise ValueError(f"SSCD preprocessing {name!r} is none of {', '.join(PREPROCESSING)}")
    if name in BYTES_PREPROCESSING:
        return transforms.Compose([BYTES_PREPROCESSING[name], to_bytes])
    resizing, (mean, std) = SSCD_PREPROCESSING[name]
    return transforms.Compose([*resizing, transforms.ToTensor(), transforms.Normalize(mean, std)])


def to_bytes(image: Image.Image) -> torch.Tensor:
    """A picture as it is, uint8 (height, width, 3)."""
    return torch.from_numpy(np.array(image))


def chosen_preprocessing(path: Path, takes_bytes: bool, wanted: str | None) -> str:
    """The preprocessing that is asked for, or the usual one of what the file takes.

    Raises:
        ValueError: one line, if it does not go with what the file takes.
    """
    name = wanted or (USUAL_OF_BYTES if takes_bytes else USUAL)
    if name in PREPROCESSING and takes_bytes != (name in BYTES_PREPROCESSING):
        takes = "bytes and normalises them itself" if takes_bytes else "normalised numbers"
        fitting = BYTES_PREPROCESSING if takes_bytes else SSCD_PREPROCESSING
        raise ValueError(f"{path} takes {takes}: --sscd_preprocessing {name} does not fit, {', '.join(fitting)} does")
    return name
