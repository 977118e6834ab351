"""Files of prompts: JSON lines, a JSON list, CSV, TSV and Parquet, read into one kind of raw rows."""

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from memorization.errors import InputError, first_line, warn
from memorization.files.json_lines import decode_line, numbered_lines
from memorization.files.whole import opened_text, read_text
from memorization.seeds import LARGEST_INDEX

CAPTION_COLUMNS = ("caption", "prompt", "text")  # in any case, the first that there is
KIND_COLUMNS = ("kind", "type", "overfit_type")  # the last two are NeMo's and Webster's
KEPT_COLUMNS = ("index", "url", "is_memorized", *KIND_COLUMNS)
FLAGS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
DELIMITERS = (",", ";", "\t")  # of the first line; where it has none there is one column
LONGEST_NUMBER = 20  # digits

Place = tuple[str, dict]  # "FILE, line N" and the raw row that is there
CsvLine = tuple[int, list[str], list[str]]  # its number, the header and its cells


def prompt_rows(path: Path, prompt_key: str | None = None) -> Iterator[dict]:
    """Rows of a file of prompts with caption, index and what else is known; blank lines are left out.

    Args:
        prompt_key: column of the prompt; by default caption, prompt or text, in any case.

    Raises:
        InputError: if the file is empty or holds no rows of prompts, naming file and line.
    """
    position, lacking = -1, 0
    for position, (where, raw) in enumerate(raw_rows(path)):
        if is_link_alone(raw, prompt_key):
            lacking += 1
        else:
            yield {"index": position, **check_row(where, with_caption(where, raw, prompt_key))}
    if position < 0:
        raise InputError(f"{path} is empty; expected prompts under caption, prompt or text")
    if lacking:
        warn(f"{lacking} of {position + 1} links of {path} have no caption and are left out")


def raw_rows(path: Path) -> Iterator[Place]:
    """The rows of a table with where each stands, whatever its columns are; what has no suffix is JSON lines."""
    rows, decode = open_table(path)
    yield from map(decode, rows)


def open_table(path: Path) -> tuple[Iterator[Any], Callable[[Any], Place]]:
    """The rows of a table, read one at a time but for those of a JSON list, and what decodes one: those that are
    skipped need not be decoded."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return csv_lines(path), partial(csv_row, path)
    if suffix == ".parquet":
        return parquet_rows(path), as_it_is
    if suffix == ".json" and is_json_list(path):
        return json_list_rows(path), as_it_is
    return json_lines(path), partial(json_row, path)


def as_it_is(place: Place) -> Place:
    return place


def json_lines(path: Path) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in numbered_lines(path) if line.strip())


def json_row(path: Path, numbered: tuple[int, str]) -> Place:
    number, line = numbered
    return checked_object(f"{path}, line {number}", decode_line(path, number, line))


def is_json_list(path: Path) -> bool:
    """Whether a .json is one list; others are read as JSON lines."""
    with opened_text(path) as file:
        return next((line.lstrip().startswith("[") for line in file if line.strip()), False)


def json_list_rows(path: Path) -> Iterator[Place]:
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON ({error})") from error
    for position, row in enumerate(rows):
        yield checked_object(f"{path}, row {position}", {"caption": row} if isinstance(row, str) else row)


def checked_object(where: str, row: object) -> Place:
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object")
    return where, row


def csv_lines(path: Path) -> Iterator[CsvLine]:
    """Lines of a table with commas, semicolons or tabs; quoted cells may hold line ends and any other character.

    Raises:
        InputError: if quotes are not closed, or a row has more cells than the header: of a comma without quotes.
    """
    with opened_text(path, newline="") as file:
        first = file.readline()
        file.seek(0)
        delimiter = max(DELIMITERS, key=first.count)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            for cells in reader:
                if len(cells) > len(header):
                    where, told = f"{path}, line {reader.line_num}", f"{len(cells)} cells, the header {len(header)}"
                    raise InputError(f"{where}: it has {told}; put cells that hold {delimiter!r} into quotes")
                if any(cells):
                    yield reader.line_num, header, cells
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from error


def csv_row(path: Path, line: CsvLine) -> Place:
    number, header, cells = line
    return f"{path}, line {number}", {name: cell_value(name, c) for name, c in zip(header, cells, strict=False)}


def cell_value(column: str, cell: str) -> object:
    """What a cell of a CSV stands for: numbers and truth values are spelled there, and nothing is an empty cell."""
    name, text = column.lower(), cell.strip()
    if name == "index" and text.isdecimal() and len(text) < LONGEST_NUMBER:
        return int(text)
    if name == "is_memorized":
        return FLAGS.get(text.lower(), text or None)
    return cell if text or name not in KEPT_COLUMNS else None


def parquet_rows(path: Path) -> Iterator[Place]:
    """
    Raises:
        InputError: if it cannot be read.
    """
    from pyarrow import parquet, types

    position = 0
    with parquet_errors(path):
        file = parquet.ParquetFile(path)
        # Others, such as pictures, may be large.
        simple = [f.name for f in file.schema_arrow if not types.is_nested(f.type) and not types.is_binary(f.type)]
        for batch in file.iter_batches(columns=simple):
            for row in batch.to_pylist():
                yield parquet_row(path, position, row)
                position += 1


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """
    Raises:
        InputError: if a Parquet file cannot be read in the block.
    """
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's own are of these kinds
        raise InputError(f"{path} is not a readable Parquet file ({first_line(error)})") from error


def parquet_row(path: Path, position: int, row: Mapping[str, object]) -> Place:
    return f"{path}, row {position}", {name: whole_number(value) for name, value in row.items()}


def whole_number(value: object) -> object:
    """Whole numbers as such, and nothing for NaN, where pandas has left a column with gaps as floats."""
    if not isinstance(value, float):
        return value
    return int(value) if value.is_integer() else None if math.isnan(value) else value


def with_caption(where: str, raw: Mapping, prompt_key: str | None) -> dict:
    """A raw row with its prompt under `caption`, its kind under `kind`, and all columns in lower case.

    Raises:
        InputError: if there is no prompt.
    """
    row = in_lower_case(raw)
    row["caption"] = first_of(row, CAPTION_COLUMNS) if prompt_key is None else raw.get(prompt_key)
    if not isinstance(row["caption"], str):
        wanted = f"{prompt_key}, which --prompt_key names" if prompt_key else "caption; name another by --prompt_key"
        raise InputError(f"{where}: no text under the key {wanted} (keys: {', '.join(map(str, raw)) or 'none'})")
    kind = kind_of(row)
    return row | {"kind": kind} if kind is not None and not row.get("kind") else row


def kind_of(row: Mapping) -> str | None:
    """The kind that a row with its columns in lower case has, under any of the names of that column."""
    return next((row[c] for c in KIND_COLUMNS if isinstance(row.get(c), str) and row[c]), None)


def is_link_alone(raw: Mapping, prompt_key: str | None) -> bool:
    """Whether a row is a link whose caption is empty, as metadata of web-scale sets have some."""
    row = in_lower_case(raw)
    names = CAPTION_COLUMNS if prompt_key is None else (prompt_key.lower(),)
    has_column = any(name in row for name in names)
    return isinstance(row.get("url"), str) and has_column and not str(first_of(row, names) or "").strip()


def in_lower_case(raw: Mapping) -> dict:
    """A row with the names of its columns in lower case; of two that differ by that alone the lower one counts."""
    return {str(name).lower(): value for name, value in sorted(raw.items(), key=lambda item: str(item[0]).islower())}


def first_of(row: Mapping, names: Iterable[str]) -> object:
    """What is in the first of these columns that is there and not null."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def check_row(where: str, row: dict) -> dict:
    """A row when its fields are of their types; one without an index has none.

    Raises:
        InputError: one line that names the field.
    """
    broken = next((k for k, v in row.items() if isinstance(v, str) and not is_unicode(v)), None)
    if broken is not None:
        raise InputError(f"{where}: {broken} holds half a surrogate pair, as \\ud800; write it whole")
    index = row.get("index", 0)
    if index is None:
        del row["index"]
    elif not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= LARGEST_INDEX:
        raise InputError(f"{where}: index {index!r} is not a whole number from 0 to {LARGEST_INDEX}")
    for key, expected, told in (
        ("is_memorized", bool, "true or false"),
        ("kind", str, "text"),
        ("url", str, "text"),
    ):
        if not isinstance(row.get(key), expected | None):
            raise InputError(f"{where}: {key} {row[key]!r} is neither {told} nor null")
    return row


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell half a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
