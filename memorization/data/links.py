"""What to say of a data set whose pictures are links, where the pictures themselves are needed."""

from collections.abc import Iterable, Mapping
from typing import Any

from memorization.data.prompts import PromptRecord

REMEDY = "links to pictures and none of the pictures; fetch them by img2dataset and give the folder of its archives"


def lacks_pictures(name: object, rows: Iterable[Mapping[str, Any] | PromptRecord], usual: str) -> str:
    """A message on a data set without pictures.

    Args:
        rows: of the data set, any of which may have a link.
        usual: end of the message where none has.
    """
    urls = (row.url if isinstance(row, PromptRecord) else row.get("url") for row in rows)
    return f"{name} has {REMEDY} (docs/data.md)" if any(urls) else f"{name} {usual}"
