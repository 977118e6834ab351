"""Training images and true masks of a data set."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.files.packed import PictureFile
from memorization.files.pixels import BLACK, read_pixels

MIDDLE = 127  # of grey values: what is brighter is in the mask


def read_image(path: PictureFile) -> np.ndarray:
    """A reference image, uint8 (height, width, 3); see `read_pixels` for depth, transparency and EXIF.

    Raises:
        InputError: if it cannot be read, or is all black: a placeholder that would be a false reference.
    """
    image = read_pixels(path)
    if not image.any():
        raise InputError(f"{path} is all black, a placeholder; remove it or put the training image there")
    return image


def read_mask(path: Path) -> np.ndarray:
    """A true mask, bool (height, width); what is transparent is outside.

    Raises:
        InputError: if it cannot be read, or is black: nothing could be compared within it.
    """
    mask = read_pixels(path, "L", BLACK) > MIDDLE
    if not mask.any():
        raise InputError(f"{path} is black, a mask of nothing; remove it or make the copied region white in it")
    return mask


def check_pictures(records: Iterable[PromptRecord]) -> None:
    """Look at every training image and mask of some prompts, so that a fault shows before the work.

    Raises:
        InputError: if one cannot be used, the first found.
    """
    for record in records:
        for path in record.reference_images:
            read_image(path)
        if record.mask_path is not None and record.reference_images:
            read_mask(record.mask_path)
