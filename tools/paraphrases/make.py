"""Write paraphrases of the captions of a prompt file, for semantic search (--l_target_ss).

    python -m tools.paraphrases.make PROMPTS.jsonl --output OUT.jsonl
    python -m tools.paraphrases.make PROMPTS.jsonl --output OUT.jsonl --template_only

OUT.jsonl has the rows of PROMPTS.jsonl with caption1 .. captionN and paraphrase_source, the counts of what each
source offered and what became of it. A chat model writes them; rule-based rewordings fill up, and stand in
where the model cannot be had.

A paraphrase is kept if it is neither the caption again nor about something else. It must differ from the caption
and the others in more than case, punctuation and white space; have a subject similarity of at least
--min_similarity; and a wording similarity of at most --max_similarity. Both similarities are in [0, 1], higher =
nearer to the caption, and read letters and words rather than meaning (accept.py).

The paraphrases of a caption depend on its text, the model and --seed, not on other prompts. The same command
after an interruption goes on where it stopped.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from memorization.data.prompts import clean_prompt, make_record, refuse_repeated_indices
from memorization.data.tables import prompt_rows
from memorization.errors import InputError, exit_on_input_error, first_line
from memorization.files.json_lines import ResultsFile
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from memorization.tables import format_table
from tools.paraphrases.accept import OUTCOMES, Paraphrases, fold
from tools.paraphrases.templates import template_paraphrases

if TYPE_CHECKING:
    from tools.paraphrases.chat import Chat

DEFAULT_LLM = "HuggingFaceTB/SmolLM2-360M-Instruct"
MAX_CALLS = 4  # of the chat model per caption, each with several answers; templates fill up what is then missing
NUMBERED = re.compile(r"caption\d+")

Row = dict  # of a prompt file


@dataclass(frozen=True)
class ParaphraseSettings:
    """What is asked for, by the names of the command line."""

    output: Path
    num: int
    llm: str
    gguf_file: str | None
    template_only: bool
    min_similarity: float
    max_similarity: float
    seed: int
    overwrite: bool

    def kept(self, rows: Sequence[Row], has_chat: bool) -> dict[str, object]:
        """What decides the paraphrases, kept beside the output."""
        digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
        kept: dict[str, object] = {
            "prompts_digest": digest,
            "num": self.num,
            "min_similarity": self.min_similarity,
            "max_similarity": self.max_similarity,
        }
        # Templates that stand in for a model are not mixed with its answers once it is there.
        model = {"llm": self.llm, "gguf_file": self.gguf_file, "seed": self.seed} if has_chat else {"llm": None}
        return kept | model


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("prompts", type=Path, help="prompt file, one JSON object with a caption on each line")
    add("--output", type=Path, required=True, help="prompt file to write; its settings go beside it (.config.json)")
    add("--num", type=int, default=25, help="paraphrases per caption")
    add("--llm", default=DEFAULT_LLM, help="chat model, hub id or folder")
    add("--gguf_file", help="the file in --llm to read, for a model in GGUF format; needs the package gguf")
    add("--template_only", action="store_true", help="no chat model")
    add("--min_similarity", type=float, default=0.5, help="of the subject, in [0, 1]")
    add("--max_similarity", type=float, default=0.95, help="of the wording, in [0, 1]")
    add("--seed", type=int, default=0, help="of the chat model's sampling")
    add("--overwrite_captions", action="store_true", help="replace paraphrases that PROMPTS.jsonl already has")
    add("--overwrite", action="store_true", help="replace an output made under other settings")
    return parser


def check_args(args: argparse.Namespace) -> None:
    """
    Raises:
        InputError: for a number out of its range, or an output that is the input.
    """
    if args.num < 1:
        raise InputError(f"--num {args.num} must be at least 1")
    for name in ("min_similarity", "max_similarity"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} {getattr(args, name)} must be between 0 and 1")
    if args.output.resolve() == args.prompts.resolve():
        raise InputError(f"--output {args.output} is the prompt file itself; choose another")


def read_rows(path: Path, overwrite_captions: bool) -> list[Row]:
    """Rows of the prompt file without paraphrases.

    Raises:
        InputError: for a caption without words, a repeated index, or paraphrases that are already there.
    """
    rows = []
    for row in prompt_rows(path):
        where = f"{path}, index {row['index']}"
        if not fold(row["caption"]):
            raise InputError(f"{where}: the caption {row['caption']!r} has no words to paraphrase")
        numbered = [key for key in row if NUMBERED.fullmatch(key)]
        if numbered and not overwrite_captions:
            raise InputError(f"{where}: has {numbered[0]} already; --overwrite_captions replaces it")
        rows.append({key: value for key, value in row.items() if key not in numbered})
    refuse_repeated_indices(path, [make_record(row, False) for row in rows])
    return rows


def open_chat(settings: ParaphraseSettings) -> "Chat | None":
    """The chat model; None where none is wanted or, with a word why, it cannot be had."""
    if settings.template_only:
        return None
    try:
        from tools.paraphrases.chat import Chat  # which is slow to import, and not needed for templates

        return Chat(settings.llm, settings.gguf_file)
    except Exception as error:  # the loader raises a dozen kinds, all of which mean the same to the user
        reason = f"cannot load the chat model {settings.llm}: {first_line(error)}"
        tqdm.write(f"warning: all paraphrases come from templates: {reason}")
        return None


def open_results(settings: ParaphraseSettings, rows: Sequence[Row], has_chat: bool) -> ResultsFile:
    """The output with what it holds so far.

    Raises:
        InputError: if its rows are of another model, or of other prompts.
    """
    try:
        return ResultsFile(settings.output, settings.kept(rows, has_chat), overwrite=settings.overwrite)
    except InputError as error:
        raise InputError(re.sub("--run_name|--output_dir", "--output", str(error))) from error


def paraphrase(row: Row, settings: ParaphraseSettings, chat: "Chat | None") -> Row:
    """The row with its paraphrases, the chat model's first."""
    caption = clean_prompt(row["caption"])
    found = Paraphrases(caption, settings.num, settings.min_similarity, settings.max_similarity)
    if chat is not None:
        ask(chat, found, settings.seed)
    found.offer(template_paraphrases(caption), "template")
    numbered = {f"caption{k}": text for k, text in enumerate(found.texts, 1)}
    return row | numbered | {"paraphrase_source": found.counts}


def ask(chat: "Chat", found: Paraphrases, seed: int) -> None:
    """Offer what the chat model says, until there are enough or it was asked often enough."""
    for call in range(MAX_CALLS):
        if found.missing:
            answers = chat.captions(found.caption, seed_of(found.caption, seed, call))
            found.offer(answers, "llm", chat.example_words)


def seed_of(caption: str, seed: int, call: int) -> int:
    """Of one call: it depends on the caption, not on other prompts."""
    return int.from_bytes(hashlib.sha256(f"{seed} {call} {caption}".encode()).digest()[:7], "big")


def summary(rows: Sequence[Row], num: int) -> str:
    """Markdown table of what became of each source's candidates, and how many captions have all paraphrases."""
    sources = dict.fromkeys(name for row in rows for name in row["paraphrase_source"])
    table = []
    for name in sources:
        counts = [row["paraphrase_source"].get(name, {}) for row in rows]
        table.append([name, *(sum(c.get(outcome, 0) for c in counts) for outcome in OUTCOMES)])
    full = sum(f"caption{num}" in row for row in rows)
    return f"{format_table(['source', *OUTCOMES], table)}\n{full} of {len(rows)} captions have {num} paraphrases"


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    settings = from_arguments(ParaphraseSettings, args)
    with exit_on_input_error():
        check_args(args)
        rows = read_rows(args.prompts, args.overwrite_captions)
        chat = open_chat(settings)
        results = open_results(settings, rows, chat is not None)
        todo = [row for row in rows if row["index"] not in results.done]
        for row in tqdm(todo, total=len(rows), initial=len(rows) - len(todo), desc="paraphrases", unit="prompt"):
            results.add(paraphrase(row, settings, chat))
        print(summary(list(results.rows()), settings.num))
        print(settings.output)


if __name__ == "__main__":
    main()
