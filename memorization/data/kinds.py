"""Labels of kind (local or global, template or verbatim) from a table, for prompt sets that have none themselves."""

import csv
from dataclasses import replace

from memorization.data.prompts import clean_prompt
from memorization.data.sources import jsonl_rows, read_utf8
from memorization.errors import InputError

CAPTION_COLUMNS, KIND_COLUMNS = ("caption", "prompt"), ("kind", "type")


def read_kinds(path):
    """Kind by cleaned caption, from a .jsonl or a .csv with commas or semicolons, as of NeMo's prompt labels.

    Raises:
        InputError: if the file is missing, or has no column of captions or none of kinds.
    """
    rows = jsonl_rows(path) if path.suffix == ".jsonl" else csv_rows(path)
    kinds = {}
    for row in rows:
        row = {str(k).lower(): v for k, v in row.items()}
        caption, kind = (next((row[c] for c in names if row.get(c)), None) for names in (CAPTION_COLUMNS, KIND_COLUMNS))
        if caption is None or kind is None:
            raise InputError(f"{path} needs the columns caption and kind (or type); it has {', '.join(row)}")
        kinds[clean_prompt(caption)] = str(kind)
    return kinds


def csv_rows(path):
    lines = read_utf8(path).splitlines()
    if not lines:
        raise InputError(f"{path} is empty; expected a table with the columns caption and kind")
    return csv.DictReader(lines, delimiter=";" if ";" in lines[0] else ",")


def relabel(run, kinds, path):
    """The run with the kinds of a table; prompts that it does not have keep their own.

    Raises:
        InputError: if it has none of the run's prompts.
    """
    rows = [{**row, "kind": kinds.get(clean_prompt(row["prompt"]), row.get("kind"))} for row in run.rows]
    if not any(clean_prompt(row["prompt"]) in kinds for row in run.rows):
        raise InputError(f"{path} has none of the prompts in {run.path}; give the labels of its prompt set")
    return replace(run, rows=tuple(rows))
