"""Prompt sets: every kind of data set that --dataset takes, read into one kind of record."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ftfy

from memorization.data.sources import RandomPrompt, random_letters, read_rows
from memorization.errors import InputError
from memorization.files.packed import PictureFile


@dataclass(frozen=True)
class PromptRecord:
    """One prompt and what is known about it."""

    index: int
    prompt: str  # as the tokenizer gets it
    raw_prompt: str  # as the file has it
    alternatives: tuple[str, ...] = ()  # paraphrases for semantic search
    is_memorized: bool | None = None
    kind: str | None = None
    reference_images: tuple[PictureFile, ...] = ()  # training images
    mask_path: Path | None = None  # true mask of the copied region
    url: str | None = None  # where the training image was
    repeats: int = 1  # how often the training set holds it, as far as the data set says


def load_prompts(
    dataset: str,
    start: int = 0,
    end: int | None = None,
    prompt_key: str | None = None,
    clean_prompts: bool = True,
    random_prompt: RandomPrompt | None = None,
    seed: int = 0,
) -> list[PromptRecord]:
    """Read a data set into records.

    Args:
        dataset: a file of prompts (.jsonl, .json, .csv, .tsv, .parquet); a folder NAME_groundtruth; a folder of
            captioned pictures (pairs, kohya's, a list of files, webdataset's archives) or one archive; `random`; or a
            Hugging Face data set (hub id or folder).
        start, end: which records by position, as in a slice; `index` stays that of the file.
        prompt_key: column of the prompt; in files caption, prompt or text by default, in any case.
        clean_prompts: mend mojibake and HTML entities, as the CLIP tokenizer of 2023 did with ftfy. The
            current one does not, and the end token moves with such text.
        random_prompt: function from a `random.Random` to a prompt, for `random`; words of random
            lowercase letters by default.
        seed: of the prompts of `random`; another seed gives other prompts.

    Returns:
        List of `PromptRecord`.

    Raises:
        InputError: one line that names file, line and remedy.
    """
    if end is not None and start >= end:
        raise InputError(f"--start {start} must be smaller than --end {end}")
    rows = read_rows(dataset, end, prompt_key, random_prompt or random_letters, seed)
    skipped = sum(1 for _ in islice(rows, start))
    records = [make_record(row, clean_prompts) for row in islice(rows, end and end - start)]
    if not records:
        raise InputError(f"{dataset} has no prompts from --start {start} on: it has {skipped}")
    refuse_repeated_indices(dataset, records)
    return records


def make_record(row: Mapping, clean_prompts: bool) -> PromptRecord:
    """A record out of a raw row; captions that are numbered from 1 on without gaps are its alternatives."""
    clean = clean_prompt if clean_prompts else str
    alternatives: list[str] = []
    while isinstance(row.get(f"caption{len(alternatives) + 1}"), str):
        alternatives.append(clean(row[f"caption{len(alternatives) + 1}"]))
    return PromptRecord(
        index=row["index"],
        prompt=clean(row["caption"]),
        raw_prompt=row["caption"],
        alternatives=tuple(alternatives),
        is_memorized=row.get("is_memorized"),
        kind=row.get("kind"),
        reference_images=row.get("reference_images", ()),
        mask_path=row.get("mask_path"),
        url=row.get("url"),
        repeats=row.get("repeats", 1),
    )


def clean_prompt(text: str) -> str:
    """Mend mojibake, curly quotes and ligatures (ftfy) and HTML entities, and strip white space."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def refuse_repeated_indices(dataset: object, records: Sequence[PromptRecord]) -> None:
    """
    Raises:
        InputError: if two records have one index.
    """
    seen = set()
    for record in records:
        if record.index in seen:
            raise InputError(f"{dataset} has index {record.index} twice; images and rows are named by it")
        seen.add(record.index)
