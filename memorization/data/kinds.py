"""Labels of kind (local or global, template or verbatim) from a table, for prompt sets that have none themselves."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from memorization.data.prompts import clean_prompt
from memorization.data.sources import jsonl_rows
from memorization.errors import InputError
from memorization.files.whole import read_text

CAPTION_COLUMNS, KIND_COLUMNS = ("caption", "prompt"), ("kind", "type")


def read_kinds(path: Path) -> dict[str, str]:
    """Kind by cleaned caption, from a .jsonl or a .csv with commas or semicolons, as of NeMo's prompt labels.

    Raises:
        InputError: if the file is missing, or has no column of captions or none of kinds.
    """
    kinds = {}
    for row in jsonl_rows(path) if path.suffix == ".jsonl" else csv_rows(path):
        row = {str(k).lower(): v for k, v in row.items()}
        caption, kind = first_of(row, CAPTION_COLUMNS), first_of(row, KIND_COLUMNS)
        if caption is None or kind is None:
            raise InputError(f"{path} needs the columns caption and kind (or type); it has {', '.join(row)}")
        kinds[clean_prompt(caption)] = str(kind)
    return kinds


def first_of(row: Mapping, names: Iterable[str]) -> str | None:
    """What is in the first of these columns that holds anything."""
    return next((row[name] for name in names if row.get(name)), None)


def csv_rows(path: Path) -> Iterable[dict]:
    lines = read_text(path).splitlines()
    if not lines:
        raise InputError(f"{path} is empty; expected a table with the columns caption and kind")
    return csv.DictReader(lines, delimiter=";" if ";" in lines[0] else ",")
