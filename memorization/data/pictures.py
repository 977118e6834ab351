"""Training images and true masks of a data set."""

from pathlib import Path

import numpy as np
from PIL import Image

from memorization.errors import InputError


def read_image(path: Path) -> np.ndarray:
    """A reference image, uint8 (height, width, 3).

    Raises:
        InputError: if it cannot be read, or is all black: a placeholder that would be a false reference.
    """
    image = read_pixels(path, "RGB")
    if not image.any():
        raise InputError(f"{path} is all black, a placeholder; remove it or put the training image there")
    return image


def read_mask(path: Path) -> np.ndarray:
    """A true mask, bool (height, width).

    Raises:
        InputError: if it cannot be read, or is black: nothing could be compared within it.
    """
    mask = read_pixels(path, "L") > 127
    if not mask.any():
        raise InputError(f"{path} is black, a mask of nothing; remove it or make the copied region white in it")
    return mask


def read_pixels(path: Path, mode: str) -> np.ndarray:
    """An image in one of Pillow's modes, uint8.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three on damaged files
        raise InputError(f"{path} is not a readable image") from error
