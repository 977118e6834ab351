"""Prompts of a data set of any length, one after another: each is read once, and what is skipped is not decoded."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from memorization.data.folders import archives_in, folder_kind, pair_row, pairs_in, sample_row, samples_of
from memorization.data.hub import Texts, streamed_texts
from memorization.data.prompts import clean_prompt
from memorization.data.sources import RandomPrompt, find_path, random_letters, read_rows
from memorization.data.tables import (
    CAPTION_COLUMNS,
    Place,
    check_row,
    is_link_alone,
    open_table,
    parquet_errors,
    parquet_row,
    with_caption,
)
from memorization.errors import InputError

Prompt = tuple[int, str]  # index, and the words as the tokenizer gets them


class PromptStream:
    """The prompts of a data set in their order.

    A sample of an archive that lacks a picture or a caption has its place, and no prompt; so has a link without one.

    Attributes:
        position: how many were taken or skipped.
    """

    def __init__(
        self, items: Iterator[Any], decode: Callable[[Any], Mapping[str, Any] | None], clean: Callable[[str], str]
    ):
        """
        Args:
            items: what is read, in order.
            decode: from what is read to a row with its caption and perhaps its index; None where there is no prompt.
            clean: from a caption to the prompt.
        """
        self.items, self.decode, self.clean, self.position = items, decode, clean, 0

    def skip(self, count: int) -> int:
        """Pass over so many places; gives how many there were."""
        found = sum(1 for _ in islice(self.items, count))
        self.position += found
        return found

    def take(self, count: int) -> list[Prompt | None]:
        """The prompts of the next places, at most `count`.

        Raises:
            InputError: one line that names file, line and remedy, where a place holds no prompt but should.
        """
        prompts = [self.prompt(k, item) for k, item in enumerate(islice(self.items, count), self.position)]
        self.position += len(prompts)
        return prompts

    def prompt(self, position: int, item: Any) -> Prompt | None:
        row = self.decode(item)
        return None if row is None else (row.get("index", position), self.clean(row["caption"]))


class ParquetStream(PromptStream):
    """The prompts of a Parquet file: row groups that are skipped are not read, and no columns but index and prompt."""

    def __init__(self, path: Path, prompt_key: str | None, clean: Callable[[str], str]):
        """
        Raises:
            InputError: if the file cannot be read.
        """
        from pyarrow import parquet

        super().__init__(chain.from_iterable(self.groups()), partial(checked_row, prompt_key), clean)
        self.path, self.next_group = path, 0
        with parquet_errors(path):
            self.file = parquet.ParquetFile(path)
        names, wanted = self.file.schema_arrow.names, ("index", "url", *CAPTION_COLUMNS, (prompt_key or "").lower())
        self.columns = [name for name in names if name.lower() in wanted]
        metadata = self.file.metadata
        self.sizes = [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)]

    def groups(self) -> Iterator[Iterator[Place]]:
        while self.next_group < len(self.sizes):
            self.next_group += 1
            yield self.rows_of(self.next_group - 1)

    def rows_of(self, group: int) -> Iterator[Place]:
        position = sum(self.sizes[:group])
        with parquet_errors(self.path):
            for batch in self.file.iter_batches(1024, row_groups=[group], columns=self.columns):
                for row in batch.to_pylist():
                    yield parquet_row(self.path, position, row)
                    position += 1

    def skip(self, count: int) -> int:
        """Pass over the rest of the row group that was begun, whole groups, and the first rows of the last."""
        before, target = self.position, self.position + count
        super().skip(min(count, sum(self.sizes[: self.next_group]) - before))
        while self.next_group < len(self.sizes) and self.position + self.sizes[self.next_group] <= target:
            self.position += self.sizes[self.next_group]
            self.next_group += 1
        super().skip(target - self.position)
        return self.position - before


class HubStream(PromptStream):
    """The prompts of what the package datasets streams; tables that are skipped are fetched and not decoded.

    A row without text, as sets of links have some, has its place, and no prompt.
    """

    def __init__(self, texts: Iterator[Texts], name: str, clean: Callable[[str], str]):
        """
        Args:
            texts: of `streamed_texts`.
            name: of the data set, for messages.
        """
        super().__init__(self.cells(), self.row_of, clean)
        self.texts, self.name = texts, name
        self.table: Texts = ()
        self.place = 0  # in the table

    def has_next(self) -> bool:
        """Whether there is a further row; fetches the next table where one is used up."""
        while self.place >= len(self.table):
            following = next(self.texts, None)
            if following is None:
                return False
            self.table, self.place = following, 0
        return True

    def cells(self) -> Iterator[Any]:
        while self.has_next():
            self.place += 1
            yield self.table[self.place - 1].as_py()

    def row_of(self, text: Any) -> dict[str, Any] | None:
        """
        Raises:
            InputError: if the column does not hold text.
        """
        if text is not None and not isinstance(text, str):
            raise InputError(f"data set {self.name}: row {self.position} holds no text but {str(text)[:40]!r}")
        return {"caption": text} if text else None

    def skip(self, count: int) -> int:
        left = count
        while left and self.has_next():
            step = min(left, len(self.table) - self.place)
            self.place, left = self.place + step, left - step
        self.position += count - left
        return count - left


def open_stream(
    dataset: str,
    prompt_key: str | None = None,
    clean_prompts: bool = True,
    random_prompt: RandomPrompt = random_letters,
    seed: int = 0,
) -> PromptStream:
    """The prompts of a data set, one after another.

    JSON lines, CSV, TSV, Parquet, archives of webdataset, texts beside pictures and data sets of the hub are read as
    they are needed; of other data sets the rows are made as of small ones, and those that are skipped as well.

    Args:
        dataset, prompt_key, clean_prompts, random_prompt, seed: as of `load_prompts`.

    Raises:
        InputError: if there is no such data set.
    """
    clean = clean_prompt if clean_prompts else str
    path = None if dataset == "random" else find_path(dataset)
    if path is not None and path.is_file() and path.suffix.lower() == ".parquet":
        return ParquetStream(path, prompt_key, clean)
    if path is not None and path.is_file() and path.suffix != ".tar":
        rows, decode = open_table(path)
        return PromptStream(rows, lambda row: checked_row(prompt_key, decode(row)), clean)
    kind = None if path is None or path.is_file() else folder_kind(path)
    if path is not None and (path.suffix == ".tar" or kind == "archives"):
        archives = [path] if path.is_file() else archives_in(path)
        return PromptStream(chain.from_iterable(map(samples_of, archives)), sample_row, clean)
    if path is not None and kind == "pairs":
        return PromptStream(pairs_in(path), pair_row, clean)
    is_plain = path is not None and path.is_dir() and kind is None and not path.name.endswith("groundtruth")
    if dataset != "random" and (path is None or is_plain):
        return HubStream(streamed_texts(str(path or dataset), dataset, prompt_key), dataset, clean)
    return PromptStream(read_rows(dataset, None, prompt_key, random_prompt, seed), dict, clean)


def checked_row(prompt_key: str | None, place: Place) -> dict | None:
    """A row of a table with its prompt under `caption`; None of a link without one."""
    where, raw = place
    if is_link_alone(raw, prompt_key):
        return None
    return check_row(where, with_caption(where, raw, prompt_key))
