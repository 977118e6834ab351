"""The pictures of a training set one after another, from any form of data set, and how an index names each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from memorization.data.folders import folder_rows
from memorization.data.links import lacks_pictures
from memorization.data.sources import find_path, random_letters, read_rows
from memorization.errors import InputError
from memorization.files.packed import PackedFile, ParquetCell, PictureFile
from memorization.files.pixels import is_picture

WITHOUT = "has no pictures; give a folder, an archive or a Parquet file of them"


@dataclass(frozen=True)
class Entry:
    """One picture of a training set.

    Attributes:
        index: of its prompt.
        caption: empty where the set has none.
        picture: where it lies.
        repeats: how often the training set holds it, as far as the data set says.
    """

    index: int
    caption: str
    picture: PictureFile
    repeats: int = 1

    def fields(self) -> dict[str, Any]:
        """What JSON keeps of it."""
        kept = {"index": self.index, "caption": self.caption, "repeats": self.repeats}
        file, picture = self.picture if isinstance(self.picture, Path) else self.picture.path, self.picture
        kept["file"] = str(file.resolve())
        if isinstance(picture, PackedFile):
            kept |= {"name": picture.name, "offset": picture.offset, "length": picture.length}
        elif isinstance(picture, ParquetCell):
            kept |= {"column": picture.column, "row": picture.row}
        return kept

    @classmethod
    def of_fields(cls, kept: Mapping[str, Any]) -> "Entry":
        """
        Raises:
            KeyError, TypeError: if fields are missing.
        """
        file = Path(kept["file"])
        picture: PictureFile = file
        if "offset" in kept:
            picture = PackedFile(file, kept["name"], kept["offset"], kept["length"])
        elif "row" in kept:
            picture = ParquetCell(file, kept["column"], kept["row"])
        return cls(kept["index"], kept["caption"], picture, kept["repeats"])


def entries_of(dataset: str, prompt_key: str | None = None) -> Iterator[Entry]:
    """Every picture of a data set in its order; of a folder without captions all pictures in it and below.

    Raises:
        InputError: if there is no such data set, or it has no pictures.
    """
    if dataset == "random":
        raise InputError(f"`random` {WITHOUT}")
    folder = plain_folder(dataset)
    found = False
    for entry in captioned_entries(dataset, prompt_key) if folder is None else plain_entries(folder):
        found = True
        yield entry
    if not found:
        first = islice(read_rows(dataset, None, prompt_key, random_letters, 0), 1)
        raise InputError(lacks_pictures(dataset, first, WITHOUT))


def captioned_entries(dataset: str, prompt_key: str | None) -> Iterator[Entry]:
    for row in read_rows(dataset, None, prompt_key, random_letters, 0):
        for picture in row.get("reference_images", ()):
            yield Entry(row["index"], row["caption"], picture, row.get("repeats", 1))


def plain_folder(dataset: str) -> Path | None:
    """The folder of a data set that is pictures and nothing else; None of every other form."""
    path = find_path(dataset)
    if path is None or not path.is_dir() or path.name.endswith("groundtruth") or folder_rows(path) is not None:
        return None
    return path if any(is_picture(p) for p in path.rglob("*")) else None


def plain_entries(folder: Path) -> Iterator[Entry]:
    for index, path in enumerate(sorted(p for p in folder.rglob("*") if is_picture(p))):
        yield Entry(index, "", path)
