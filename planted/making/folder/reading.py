"""A picture of any size and format as a planted world takes it: 128 x 128, whole, centred on white."""

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from memorization.errors import InputError
from memorization.files.pixels import WHITE, eight_bits, flat, reason, refuse_several, upright
from planted.making.folder.large_png import read_header, read_reduced
from planted.making.size import SIZE

STRIPS_ABOVE = 50_000_000  # pixels of a PNG that is read in strips; Pillow warns at 89 and refuses at 179 million
NEARLY_WHITE = 8  # grey values below white that a margin may be
REDUCED_TO = 2 * SIZE  # what a larger picture is brought near to by whole numbers, before the last resizing


def read_square(path: Path, trim: bool = False) -> np.ndarray:
    """A picture, uint8 (128, 128, 3): its aspect kept, over white and centred on it.

    A JPEG is decoded at a fraction of its size (Image.draft), a large PNG strip by strip; any other picture above
    Pillow's limit of pixels is refused.

    Args:
        trim: cut empty margins off first, which many drawings have around them.

    Raises:
        InputError: if it cannot be read, is animated, or is larger than is read safely.
    """
    header = read_header(path)
    if header is not None and header.width * header.height > STRIPS_ABOVE:
        return squared(read_reduced(path, header, SIZE), trim)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                refuse_several(image)
                image.draft("RGB", (REDUCED_TO, REDUCED_TO))
                image.load()
                return squared(flat(upright(eight_bits(image), image), WHITE).convert("RGB"), trim)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} has more pixels than are read safely; make it smaller") from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise InputError(f"{path} is not a readable image ({reason(error)}); mend it or take it away") from error


def squared(image: Image.Image, trim: bool = False) -> np.ndarray:
    """An RGB image as uint8 (128, 128, 3): its longer side, or that of what is not white in it, fills the square."""
    if trim:
        drawn = ImageChops.invert(image).point(lambda v: v if v > NEARLY_WHITE else 0).getbbox()
        image = image.crop(drawn) if drawn else image
    image.thumbnail((REDUCED_TO, REDUCED_TO), Image.Resampling.BOX)
    fitted = ImageOps.contain(image, (SIZE, SIZE), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (SIZE, SIZE), (WHITE,) * 3)
    square.paste(fitted, ((SIZE - fitted.width) // 2, (SIZE - fitted.height) // 2))
    return np.asarray(square)
