"""The copied region of a picture alone, as a picture that a copy descriptor can be shown."""

import numpy as np
from PIL import Image

from memorization.similarity.pixels import resized


def masked_region(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A picture cropped to the bounding box of a mask, what lies outside of the mask in the region's mean colour.

    A template is copied in part: the rest of the picture changes from seed to seed and takes the whole picture's
    similarity down. The box makes the region as large as a descriptor can have it. Within the box what is no part of
    the region must say nothing: one colour does, and the mean of the region itself has the least edge along the mask,
    whose outline would otherwise be what two pictures share. Both pictures that are compared, and the control
    generations, are treated alike, each with its own mean, so that an outline in common makes none of them a copy.

    Args:
        picture: uint8 (height, width, 3).
        mask: bool (h, w), True for the region; resized to the picture.

    Returns:
        uint8 (height of the box, width of the box, 3).

    Raises:
        ValueError: if nothing of the mask is left at the picture's size.
    """
    height, width = picture.shape[:2]
    inside = resized(mask, (width, height), Image.Resampling.NEAREST)
    if not inside.any():
        raise ValueError(f"a mask has no pixel left in a picture of {height} x {width}; draw its region larger")
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mean = picture[inside].mean(0).round().astype(np.uint8)
    return np.where(inside[box][..., None], picture[box], mean)
