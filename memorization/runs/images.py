"""."""

from memorization.errors import InputError
from memorization.files.npz import array_shape
from memorization.files.whole import WAY_OUT, read_png


def holds_images(npz_path, count):
    """Whether there is a file with so many images: the PNGs it was made of may be gone."""
    return npz_path.exists() and array_shape(npz_path, "images")[0] == count


def read_equal(paths, shape):
    """Yield the images at `paths`, all of one shape.

    Raises:
        InputError: if one cannot be read or is of another shape.
    """
    for path in paths:
        image = read_png(path)
        if image.shape != shape:
            raise InputError(f"images of one run differ in size: {path} is {image.shape}, others {shape}; {WAY_OUT}")
        yield image
