"""Data sets that the package datasets reads, of the hub or in a folder: whole, or streamed, table by table."""

from collections.abc import Iterator, Sequence
from typing import Any

from memorization.errors import InputError, first_line

HUB_COLUMNS = {
    "Gustavosta/Stable-Diffusion-Prompts": ("test", "Prompt"),
    "ChristophSchuhmann/MS_COCO_2017_URL_TEXT": ("train", "TEXT"),
}
TABLE = 1024  # rows that are held of a stream

Texts = Any  # a column of pyarrow, its values undecoded until as_py


def hub_rows(location: str, name: str, end: int | None, prompt_key: str | None) -> Iterator[dict]:
    """Rows of a data set, by hub id or in a folder, whose column of prompts is `prompt_key`.

    Raises:
        InputError: if it cannot be loaded, has no such column, or a row without text.
    """
    import datasets

    split, column = HUB_COLUMNS.get(name, (None, prompt_key))
    try:
        splits = datasets.load_dataset(location)
    except Exception as error:  # the loader raises a dozen kinds, all of which mean the same to the user
        raise InputError(f"cannot load data set {name}: {first_line(error)}") from error
    table = splits[chosen_split(splits, split)]
    column = known_column(name, prompt_key or column, table.column_names)
    texts = table.select(range(min(end or len(table), len(table))))[column]
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"data set {name}: column {column} holds no text in row {wrong}")
    return ({"caption": text, "index": i} for i, text in enumerate(texts))


def chosen_split(splits: Sequence[str], wanted: str | None) -> str:
    """What is known of the data set, train, or else the first."""
    return next((s for s in (wanted, "train") if s is not None and s in splits), next(iter(splits)))


def known_column(name: str, column: str | None, columns: Sequence[str]) -> str:
    """
    Raises:
        InputError: if the column of prompts is not named, or is none.
    """
    if column not in columns:
        raise InputError(f"data set {name} needs --prompt_key, one of: {', '.join(columns)}")
    return str(column)


def streamed_texts(location: str, name: str, prompt_key: str | None) -> Iterator[Texts]:
    """The column of prompts of a data set, table by table, as it is fetched: nothing is kept on disk or in memory.

    Of Parquet no other column is fetched.

    Raises:
        InputError: if it cannot be loaded, has no such column, or breaks off.
    """
    import datasets

    split, column = HUB_COLUMNS.get(name, (None, prompt_key))
    told, position = "cannot load", 0
    try:
        splits = datasets.load_dataset(location, streaming=True)
        part = chosen_split(splits, split)
        column = known_column(name, prompt_key or column, columns_of(splits[part]))
        table = with_column(location, part, column)
        for some in table.with_format("arrow").iter(TABLE):
            told, position = "cannot go on with", position + len(some)
            yield some[column]
    except InputError:
        raise
    except Exception as error:  # as of hub_rows, and whatever a connection may raise
        behind = f", behind row {position}" if position else ""
        raise InputError(f"{told} data set {name}{behind}: {first_line(error)}") from error


def columns_of(table: Any) -> list[str]:
    """Columns of a streamed data set; where its form does not say, those of its first row."""
    return table.column_names or list(next(iter(table.take(1)), {}))


def with_column(location: str, split: str, column: str) -> Any:
    """A streamed data set with one column; a form that can read columns alone, as Parquet, reads no other."""
    import datasets

    if hasattr(datasets.load_dataset_builder(location).config, "columns"):
        return datasets.load_dataset(location, split=split, streaming=True, columns=[column])
    return datasets.load_dataset(location, split=split, streaming=True).select_columns([column])
