"""Folders of captioned pictures as people have them: pairs, kohya's folders, lists of files, archives of webdataset."""

import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from memorization.data.tables import CAPTION_COLUMNS, first_of, in_lower_case, kind_of, raw_rows
from memorization.errors import InputError, warn
from memorization.files.packed import PackedFile, ParquetCell
from memorization.files.pixels import is_picture, picture_suffixes
from memorization.files.whole import read_text
from memorization.seeds import LARGEST_INDEX

CAPTION_SUFFIXES = (".txt", ".caption")  # the second is what kohya's scripts read by default
KOHYA_NAME = re.compile(r"(\d+)_(.+)")  # how often its pictures are repeated, and what they show
LISTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # of files and captions, as imagefolder has them
FILE_COLUMN = "file_name"
OTHER_CAPTION = re.compile(r"caption\d+")  # columns of a picture's further captions
PICTURE_COLUMNS = ("image", "jpg", "png", "webp", "jpeg", "img", "picture")  # of Parquet files
MAX_TOLD = 3  # files that a message names

Pair = tuple[int, Path, tuple[Path, ...]]


def is_caption(path: Path) -> bool:
    """Whether a file is a text that may be a caption; hidden files, such as macOS writes beside each, are none."""
    return path.suffix.lower() in CAPTION_SUFFIXES and not path.name.startswith(".")


def folder_rows(folder: Path, prompt_key: str | None = None) -> Iterator[dict] | None:
    """Rows of a folder of captioned pictures; None of one that holds nothing of the kind.

    Args:
        prompt_key: column of the captions, of a list of files.

    Raises:
        InputError: one line, if none of its captions has a picture.
    """
    readers: dict[str, Callable[[], Iterator[dict]]] = {
        "list": lambda: listed_rows(next(folder / name for name in LISTS if (folder / name).is_file()), prompt_key),
        "pairs": lambda: pair_rows(folder),
        "kohya": lambda: kohya_rows(folder),
        "archives": lambda: archive_rows(archives_in(folder)),
    }
    kind = folder_kind(folder)
    return None if kind is None else readers[kind]()


def folder_kind(folder: Path) -> str | None:
    """How a folder holds its captions: "list", "pairs", "kohya", "archives" or None, the first that fits."""
    if any((folder / name).is_file() for name in LISTS):
        return "list"
    if any(map(is_caption, folder.iterdir())):
        return "pairs"
    if any(p.is_dir() and KOHYA_NAME.fullmatch(p.name) for p in folder.iterdir()):
        return "kohya"
    return "archives" if archives_in(folder) else None


def archives_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.suffix == ".tar")


# A text beside each picture


def pair_rows(folder: Path) -> Iterator[dict]:
    """Rows of a folder of images with a text file each; see `pairs_in`."""
    return map(pair_row, pairs_in(folder))


def pairs_in(folder: Path) -> Iterator[Pair]:
    """Index, text and images of every pair of a folder, the texts unread; either without the other is left out.

    Raises:
        InputError: if none of the texts has a picture.
    """
    texts = [p for p in sorted(folder.glob("*")) if is_caption(p)]
    images: dict[str, tuple[Path, ...]] = {}
    for path in sorted(folder.glob("*")):
        if is_picture(path):
            images[path.stem] = (*images.get(path.stem, ()), path)
    lacking = [p for p in texts if p.stem not in images]
    if len(lacking) == len(texts):
        raise InputError(f"{texts[0]} has no image of the same name beside it, nor has any other text there")
    tell_left_out(lacking, texts, "texts have no image of their name")
    bare = [path for stem in images.keys() - {p.stem for p in texts} for path in images[stem]]
    tell_left_out(sorted(bare), [p for some in images.values() for p in some], "pictures have no text of their name")
    for position, text in enumerate(texts):
        index = int(text.stem) if text.stem.isdecimal() else position
        if index > LARGEST_INDEX:
            raise InputError(f"{text} is numbered above {LARGEST_INDEX}; give it a shorter name")
        if text.stem in images:
            yield index, text, images[text.stem]


def pair_row(pair: Pair) -> dict[str, Any]:
    index, text, images = pair
    return {"caption": read_text(text).strip(), "index": index, "reference_images": images}


def kohya_rows(folder: Path) -> Iterator[dict]:
    """Rows of the folders `REPEATS_NAME` that kohya's scripts train on; a picture without a text is called NAME there.

    Raises:
        InputError: if there is no picture.
    """
    pictures = [
        (path, int(found[1]), found[2])
        for part in sorted(folder.iterdir())
        if part.is_dir() and (found := KOHYA_NAME.fullmatch(part.name))
        for path in sorted(part.iterdir())
        if is_picture(path)
    ]
    if not pictures:
        raise InputError(f"{folder} has folders of kohya's form, REPEATS_NAME, but no picture in any of them")
    for index, (path, repeats, name) in enumerate(pictures):
        text = next((t for s in CAPTION_SUFFIXES[::-1] if (t := path.with_suffix(s)).is_file()), None)
        caption = name if text is None else read_text(text).strip()
        yield {"caption": caption, "index": index, "reference_images": (path,), "repeats": repeats}


def listed_rows(table: Path, prompt_key: str | None = None) -> Iterator[dict]:
    """Rows of a list of files with their captions beside the pictures; a file that is not there is left out.

    Raises:
        InputError: if a row names no file or holds no caption, or none of the files is there.
    """
    rows, lacking = [], []
    columns = CAPTION_COLUMNS if prompt_key is None else (prompt_key.lower(),)
    for where, raw in raw_rows(table):
        row = in_lower_case(raw)
        name, caption = row.get(FILE_COLUMN), first_of(row, columns)
        if not isinstance(name, str) or not isinstance(caption, str):
            raise InputError(f"{where}: it needs {FILE_COLUMN} and {' or '.join(columns)} (keys: {', '.join(raw)})")
        path = table.parent / name
        others = {key: value for key, value in row.items() if OTHER_CAPTION.fullmatch(key)}
        rows.append((path, {**others, "caption": caption, "kind": kind_of(row)}))
        if not path.is_file():
            lacking.append(path)
    if len(lacking) == len(rows):
        raise InputError(f"none of the {len(rows)} files that {table} lists is there")
    tell_left_out(lacking, rows, "files that are listed are not there")
    gone = set(lacking)
    for index, (path, row) in enumerate(rows):
        if path not in gone:
            yield {**row, "index": index, "reference_images": (path,)}


def tell_left_out(lacking: list[Path], everything: Iterable[object], why: str) -> None:
    if lacking:
        warn(f"{len(lacking)} of {len(list(everything))} {why} and are left out, as {lacking[0]}")


# Archives


def archive_rows(archives: list[Path]) -> Iterator[dict]:
    """Rows of webdataset's archives: files of one name up to its first dot are a sample, a picture and its caption.

    A sample that lacks either is left out, and so is what lies behind a tear in an archive; both are told.

    Raises:
        InputError: if no archive can be read, or no sample has both.
    """
    index, lacking, found = 0, 0, False
    for archive in archives:
        for sample in samples_of(archive):
            row = sample_row(sample)
            if row is None:
                lacking += 1
            else:
                found = True
                yield {**row, "index": index}
            index += 1
    if not found:
        raise InputError(f"{archives[0]} holds no picture with a caption (.txt, .caption or .json) of its name")
    if lacking:
        warn(f"{lacking} of {index} samples of {archives[0].parent} lack a picture or a caption and are left out")


def samples_of(archive: Path) -> Iterator[dict[str, PackedFile]]:
    """The samples of an archive in its order, files by their suffix in lower case.

    Raises:
        InputError: if it is no archive at all.
    """
    sample: dict[str, PackedFile] = {}
    key = None
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                if not member.isfile() or not stem or not dot:
                    continue
                if (folder, stem) != key and sample:
                    yield sample
                    sample = {}
                key = folder, stem
                sample[f".{suffix.lower()}"] = PackedFile(archive, member.name, member.offset_data, member.size)
    except tarfile.ReadError as error:
        if key is None:
            told = f"{archive} is not a readable tar archive ({error}); compressed ones are not read"
            raise InputError(told) from error
        warn(f"{archive} is torn behind {key[1]} ({error}); what was before it is read")
    if sample:
        yield sample


def sample_row(sample: Mapping[str, PackedFile]) -> dict[str, Any] | None:
    """Caption and picture of a sample; None where one of them is not there or cannot be read."""
    picture = next((file for suffix, file in sample.items() if suffix in picture_suffixes()), None)
    caption: object = None
    try:
        for suffix in CAPTION_SUFFIXES:
            if suffix in sample and caption is None:
                caption = sample[suffix].open().read().decode("utf-8").strip()
        if caption is None and ".json" in sample:
            caption = first_of(in_lower_case(json.loads(sample[".json"].open().read())), CAPTION_COLUMNS)
    except (OSError, ValueError, AttributeError):
        return None
    if picture is None or not isinstance(caption, str):
        return None
    return {"caption": caption, "reference_images": (picture,)}


def with_pictures(path: Path, rows: Iterable[dict]) -> Iterator[dict]:
    """Rows of a Parquet file with the pictures that it holds itself, as the hub and img2dataset write them."""
    column = picture_column(path)
    for position, row in enumerate(rows):
        yield row if column is None else {**row, "reference_images": (ParquetCell(path, column, position),)}


def picture_column(path: Path) -> str | None:
    """The column of a Parquet file that holds pictures: bytes, or records with bytes, under a usual name."""
    from pyarrow import lib, parquet, types

    try:
        schema = parquet.read_schema(path)
    except (OSError, lib.ArrowException):
        return None  # whoever reads the rows says so
    for name in PICTURE_COLUMNS:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and (types.is_binary(kind) or types.is_large_binary(kind) or has_bytes(kind)):
            return name
    return None


def has_bytes(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) and any(kind.field(k).name == "bytes" for k in range(kind.num_fields))
