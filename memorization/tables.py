"""Tables of results as Markdown, and numbers as JSON can hold them."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MEASURE = {"value", "low", "high"}  # what a number with its interval consists of; a share has counts too


def plain(value: object) -> object:
    """The same value, dicts and sequences gone through, with NaN and infinity as None: JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    return value


def json_pieces(value: object) -> Iterator[str]:
    """`plain` as JSON text with its last line end: of a sequence item by item, so that a long one is never held."""
    encoder = json.JSONEncoder(indent=1)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        yield encoder.encode(plain(value)) + "\n"
        return
    before = "[\n "
    for item in value:
        yield before + encoder.encode(plain(item)).replace("\n", "\n ")
        before = ",\n "
    yield "\n]\n"


def parse_results(text: str) -> Any:
    """Results out of the JSON that `plain` made them: a number of a measure that is not defined, null there, is NaN.

    Raises:
        ValueError: if the text is no JSON.
    """
    return json.loads(text, object_hook=with_nan)


def with_nan(item: dict) -> dict:
    return {k: math.nan if v is None else v for k, v in item.items()} if item.keys() >= MEASURE else item


def format_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with aligned columns; floats with three decimals."""
    cells = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in [headers, *rows]]
    widths = [max(len(row[k]) for row in cells) for k in range(len(headers))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """A table of results with what has to stand over and under it; a page folds those that are `detail`."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    note: str = ""
    detail: bool = False

    def markdown(self) -> str:
        parts = [f"### {self.caption}", format_table(self.headers, self.rows) if self.rows else "", self.note]
        return "\n\n".join(part for part in parts if part)
