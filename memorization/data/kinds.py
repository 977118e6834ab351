"""Labels of kind (local or global, template or verbatim) from a table, for prompt sets that have none themselves."""

from pathlib import Path

from memorization.data.prompts import clean_prompt
from memorization.data.tables import CAPTION_COLUMNS, KIND_COLUMNS, first_of, in_lower_case, raw_rows
from memorization.errors import InputError, warn


def read_kinds(path: Path) -> dict[str, str]:
    """Kind by cleaned caption, from any file of prompts, as of NeMo's prompt labels; a row without one is left out.

    Raises:
        InputError: if the file is missing, or has no row with both.
    """
    kinds: dict[str, str] = {}
    columns, lacking = "none", list[str]()
    for where, raw in raw_rows(path):
        row = in_lower_case(raw)
        caption, kind = first_of(row, CAPTION_COLUMNS), first_of(row, KIND_COLUMNS)
        if isinstance(caption, str) and kind not in (None, ""):
            kinds[clean_prompt(caption)] = str(kind)
        else:
            columns, lacking = ", ".join(row), [*lacking, where]
    if not kinds:
        raise InputError(f"{path} needs the columns caption and kind (or type); it has {columns}")
    if lacking:
        warn(f"{len(lacking)} rows without caption or kind are left out of --kinds, the first is {lacking[0]}")
    return kinds
