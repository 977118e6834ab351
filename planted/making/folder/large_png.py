"""PNGs that are too large to be held in memory, reduced while they are read.

The largest drawing of openclipart-png has 623 million pixels, 2.5 GB once decoded, and Pillow refuses it as a
decompression bomb. A PNG's rows depend on the row above only, so a strip of rows with the one above it, stored
unfiltered, is a PNG of its own: Pillow decodes strip by strip, in a few megabytes and at its own speed.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from memorization.errors import InputError
from memorization.files.pixels import LARGEST_8, WHITE

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type: grey, RGB, grey with alpha, RGBA
MEAN_OF = 8  # rows and columns that a pixel of the reduced picture is a mean of
MOST_PIXELS = 10**9  # above it a file is taken for a bomb
STRIP_BYTES = 1 << 24
CHUNK_BYTES = 1 << 20


class Header(NamedTuple):
    """IHDR of a PNG."""

    width: int
    height: int
    depth: int
    color: int
    compression: int
    filtering: int
    interlaced: int


def read_header(path: Path) -> Header | None:
    """The header of a PNG; None of any other file."""
    with path.open("rb") as file:
        start = file.read(33)
    if len(start) < 33 or not start.startswith(SIGNATURE) or start[12:16] != b"IHDR":
        return None
    return Header(*struct.unpack(">IIBBBBB", start[16:29]))


def read_reduced(path: Path, header: Header, size: int) -> Image.Image:
    """A large PNG over white, RGB, reduced by a whole number so that its longer side is at least 2 * size.

    Each of its pixels is a mean of up to 8 x 8, evenly spread, which costs a fraction of a mean of all.

    Raises:
        InputError: if it is larger than any picture should be, torn, or of a kind that is not read in strips.
    """
    width, height = header.width, header.height
    if width * height > MOST_PIXELS:
        raise InputError(f"{path} has {width} x {height} pixels, more than are read safely; make it smaller")
    if header.depth != 8 or header.color not in CHANNELS or header.interlaced:
        raise InputError(f"{path} is large and has a palette, 16 bits or interlaced rows; make it smaller")
    factor, step = reduction(max(width, height) // (2 * size))
    row_bytes = 1 + width * CHANNELS[header.color]
    rows = max(1, STRIP_BYTES // (row_bytes * factor)) * factor
    try:
        with path.open("rb") as file:
            strips = [over_white(strip).reduce(factor // step) for strip in thinned_strips(file, header, rows, step)]
    except (zlib.error, struct.error, OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path} is not a readable image ({error}); mend it or take it away") from error
    if sum(s.height for s in strips) != -(-height // factor):
        raise InputError(f"{path} is torn; mend it or take it away")
    return Image.fromarray(np.concatenate([np.asarray(s) for s in strips]))


def reduction(largest: int) -> tuple[int, int]:
    """By what a picture is reduced, at most, and which of its rows and columns that looks at: every how manieth."""
    step = max(1, largest // MEAN_OF)
    return (MEAN_OF * step if largest >= MEAN_OF else max(1, largest)), step


def thinned_strips(file: BinaryIO, header: Header, rows: int, step: int) -> Iterator[Image.Image]:
    """Strips of `rows` rows, of which every `step`-th row and column is kept."""
    channels = CHANNELS[header.color]
    row_bytes = 1 + header.width * channels
    above = bytes(row_bytes)  # a filter of none, and black, which is what the first row's filter takes for above
    left, pending = header.height, bytearray()
    for data in pixel_data(file):
        pending += data
        while left and len(pending) >= (count := min(rows, left)) * row_bytes:
            strip = decode_strip(above + pending[: count * row_bytes], header, count + 1)
            del pending[: count * row_bytes]
            left -= count
            pixels = np.asarray(strip)
            above = b"\0" + pixels[-1].tobytes()
            yield Image.fromarray(np.ascontiguousarray(pixels[1::step, ::step]))


def pixel_data(file: BinaryIO) -> Iterator[bytes]:
    """The filtered rows of a PNG, as they are unpacked, in pieces of any length."""
    file.seek(len(SIGNATURE))
    unpack = zlib.decompressobj()
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"IEND":
            return
        data = file.read(length)
        file.seek(4, io.SEEK_CUR)
        while kind == b"IDAT" and data:
            yield unpack.decompress(data, CHUNK_BYTES)
            data = unpack.unconsumed_tail


def decode_strip(filtered: bytes | bytearray, header: Header, height: int) -> Image.Image:
    """Filtered rows as an image, by way of a PNG that is made around them, without compression."""
    size = header._replace(height=height)
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", *size)), (b"IDAT", zlib.compress(filtered, 0)), (b"IEND", b""))
    packed = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    image = Image.open(io.BytesIO(SIGNATURE + packed))
    image.load()
    return image


def over_white(image: Image.Image) -> Image.Image:
    """What is seen of an image over white, before it is reduced: transparent pixels may hold any colour."""
    if image.mode in ("LA", "RGBA"):
        seen = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", seen.size, (WHITE,) * 3 + (LARGEST_8,)), seen)
    return image.convert("RGB")
