"""Arrays in npz files, written and read piece by piece, so that memory does not grow with the file.

Arrays are stored without compression: what is written once is then read in place. Nothing is unpickled.
"""

import lzma
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import DTypeLike

from memorization.files.whole import replacing

# What a damaged file raises, by the place of the damage.
DAMAGED_ZIP = (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
DAMAGED_HEADER = (SyntaxError, TokenError, TypeError, struct.error, KeyError)  # of an array
DAMAGED_DATA = (ValueError, OverflowError, MemoryError)
READ_ERRORS = (*DAMAGED_ZIP, *DAMAGED_HEADER, *DAMAGED_DATA)

CHUNK = 1 << 20
LOCAL_HEADER = struct.Struct("<26xHH")  # lengths of name and extra field, behind which the data begin


@dataclass(frozen=True)
class Streamed:
    """An array that is made while it is written.

    Attributes:
        shape, dtype: of the whole.
        pieces: arrays whose bytes, one after another, are the whole's.
    """

    shape: tuple[int, ...]
    dtype: DTypeLike
    pieces: Iterable[np.ndarray]


def write_npz(path: Path, arrays: Mapping[str, np.ndarray | Streamed]) -> None:
    """Write an npz file, through a temporary file.

    Raises:
        ValueError: if the pieces of a `Streamed` are not as long as its shape says.
    """
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                write_array(out, array if isinstance(array, Streamed) else whole(np.asarray(array)))


def whole(array: np.ndarray) -> Streamed:
    """An array that is there already, as one piece."""
    return Streamed(array.shape, array.dtype, (array,))


def write_array(out: IO[bytes], array: Streamed) -> None:
    dtype = np.dtype(array.dtype)
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": tuple(array.shape)}
    npy.write_array_header_1_0(out, header)
    missing = math.prod(array.shape)
    for piece in array.pieces:
        out.write(np.ascontiguousarray(piece, dtype).tobytes())
        missing -= np.size(piece)
    if missing:
        raise ValueError(f"an array of shape {array.shape} got {-missing} more elements than that")


def open_array(path: Path, name: str) -> np.ndarray:
    """An array of an npz file, read in place where it is not compressed, after its checksum.

    Raises:
        ValueError, OSError, zipfile.BadZipFile: if it is damaged or holds Python objects.
        KeyError: if the file has no array of this name.
    """
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type != zipfile.ZIP_STORED:
            with archive.open(info) as member:
                return npy.read_array(member, allow_pickle=False)
        with archive.open(info) as member:
            shape, dtype = read_header(member)
            length = member.tell()
            while member.read(CHUNK):  # the checksum is looked at when the end is reached
                pass
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", data_offset(path, info) + length, shape)


def slabs(path: Path, name: str) -> Iterator[np.ndarray]:
    """Yield array[0], array[1], ... of an npz file, compressed or not, holding one at a time.

    Raises:
        As `open_array`.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        shape, dtype = read_header(member)
        size = math.prod(shape[1:]) * dtype.itemsize
        for _ in range(shape[0]):
            data = member.read(size)
            if len(data) != size:
                raise ValueError("the file ends early")
            yield np.frombuffer(data, dtype).reshape(shape[1:])


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array of an npz file, without reading it."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as member:
        return read_header(member)[0]


def read_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array whose .npy begins here."""
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran_order, dtype = read(member)
    if fortran_order or dtype.hasobject:
        raise ValueError("an array of Python objects or in Fortran order")
    return shape, dtype


def data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Where a member's data begin in the file."""
    with Path(path).open("rb") as file:
        file.seek(info.header_offset)
        name, extra = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
    return info.header_offset + LOCAL_HEADER.size + name + extra
