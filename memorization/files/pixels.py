"""Pictures of any format that Pillow reads, as 8 bits a channel: the one reader of all of them."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from memorization.errors import InputError, first_line
from memorization.files.packed import PictureFile

WHITE, BLACK = 255, 0
LARGEST_8, LARGEST_16 = 255, 65535
FORMATS_OF_16 = ("PNG", "PPM")  # whose 16 bits older versions of Pillow give as mode I
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second
ORIENTATION = 0x112  # tag of EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SEVERAL_VIEWS = ("MPO",)  # one picture with previews or a second view, as phones write it


@lru_cache(1)
def picture_suffixes() -> frozenset[str]:
    """Lower-case suffixes of the files that Pillow reads here, with their dots."""
    known = Image.registered_extensions()
    return frozenset(suffix.lower() for suffix, kind in known.items() if can_decode(kind))


def can_decode(kind: str) -> bool:
    """Whether Pillow reads a format itself; of some it knows no more than that they are there."""
    if kind in SEVERAL_VIEWS:  # opened as the JPEG that it begins with
        return True
    factory = Image.OPEN[kind][0] if kind in Image.OPEN else None
    is_stub = isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)
    return factory is not None and not is_stub and kind != "MPEG"


def is_picture(path: Path) -> bool:
    """Whether a file is called as a picture is; hidden files, such as macOS writes beside each, are none."""
    return not path.name.startswith(".") and path.suffix.lower() in picture_suffixes() and path.is_file()


def picture_named(folder: Path, stem: object) -> Path | None:
    """The picture of this name in a folder, whatever its suffix; None where there is none."""
    return next((p for p in sorted(folder.glob(f"{stem}.*")) if is_picture(p)), None)


def read_pixels(path: PictureFile, mode: str = "RGB", background: int = WHITE, remedy: str = "") -> np.ndarray:
    """A picture as it is seen: 8 bits a channel, turned as its EXIF says, what is transparent over a background.

    Args:
        mode: "RGB" or "L".
        background: grey value under what is transparent. LAION's pictures were laid over white (img2dataset).
        remedy: what to do about a refusal, the end of the message.

    Returns:
        uint8 array, (height, width, 3) of "RGB" and (height, width) of "L". Value 257 v of 16 bits is v.

    Raises:
        InputError: if it cannot be read, has more pixels than Pillow's limit, is animated or has several pages, or
            holds numbers whose white is not known.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        # Not by its name: Pillow 13 maps a plain TIFF with an orientation into memory at the wrong size.
        with path.open("rb") as file, Image.open(file) as image:
            refuse_several(image)
            image.load()
            return np.array(flat(upright(eight_bits(image), image), background).convert(mode))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} has more pixels than are read safely; make it smaller{end}") from error
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise InputError(f"{path} is not a readable image ({reason(error)}){end}") from error


def reason(error: Exception) -> str:
    """What an error says, without the path."""
    if isinstance(error, UnidentifiedImageError):
        return "no format that Pillow knows"
    return error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)


def refuse_several(image: Image.Image) -> None:
    """
    Raises:
        ValueError: if there is more than one picture in the file.
    """
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format not in SEVERAL_VIEWS:
        raise ValueError(f"it holds {count} frames or pages; keep one of them")


def upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """An image turned as the EXIF of the file says that it was made of, where that can be read."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF beside good pixels: shown as they lie, as viewers do
        turn = None
    return image if turn is None else image.transpose(turn)


def eight_bits(image: Image.Image) -> Image.Image:
    """An image of at most 8 bits a channel; Pillow's own conversion cuts all that is above 255 off.

    Raises:
        ValueError: if its white is not known.
    """
    is_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in FORMATS_OF_16)
    if not is_16:
        if image.mode in ("I", "F"):
            kind = "32-bit whole" if image.mode == "I" else "floating-point"
            raise ValueError(f"it holds {kind} numbers, whose white is not known; save it with 8 or 16 bits")
        return image
    if "transparency" in image.info:
        raise ValueError("it has 16 bits and a transparent grey; save it with 8 bits")
    tags = getattr(image, "tag_v2", {})
    largest = 2 ** int(tags.get(BITS_PER_SAMPLE, (16,))[0]) - 1
    values = np.asarray(image).astype(np.float64)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        values = largest - values
    return Image.fromarray(np.rint(values * (LARGEST_8 / largest)).astype(np.uint8))


def flat(image: Image.Image, background: int) -> Image.Image:
    """An image without transparency, over a grey background."""
    if not image.has_transparency_data:
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, (background,) * 3 + (LARGEST_8,)), seen).convert("RGB")
