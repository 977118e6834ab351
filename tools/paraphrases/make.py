"""Write paraphrases of the captions of a prompt file, for semantic search (--l_target_ss).

    python tools/paraphrases/make.py PROMPTS.jsonl --output OUT.jsonl
    python tools/paraphrases/make.py PROMPTS.jsonl --output OUT.jsonl --template_only

OUT.jsonl has the rows of PROMPTS.jsonl with caption1 .. captionN and paraphrase_source, the counts of what each
source offered and what became of it. A chat model writes them; rule-based rewordings fill up, and stand in
where the model cannot be had.

A paraphrase is kept if it is neither the caption again nor about something else. It must differ from the caption
and the others in more than case, punctuation and white space; have a subject similarity of at least
--min_similarity; and a wording similarity of at most --max_similarity. Both similarities are in [0, 1], higher =
nearer to the caption, and read letters and words rather than meaning (paraphrase_parts.py).

The paraphrases of a caption depend on its text, the model and --seed, not on other prompts. The same command
after an interruption goes on where it stopped.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

from tqdm import tqdm

from memorization.data.prompts import clean_prompt, make_record, refuse_repeated_indices
from memorization.data.sources import jsonl_rows
from memorization.errors import InputError, exit_on_input_error
from memorization.files.json_lines import ResultsFile
from memorization.tables import format_table
from tools.paraphrases.accept import OUTCOMES, Paraphrases, fold
from tools.paraphrases.templates import template_paraphrases

DEFAULT_LLM = "HuggingFaceTB/SmolLM2-360M-Instruct"
MAX_CALLS = 4  # of the chat model per caption, each with several answers; templates fill up what is then missing
NUMBERED = re.compile(r"caption\d+")


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("prompts", type=Path, help="prompt file, one JSON object with a caption on each line")
    add("--output", type=Path, required=True, help="prompt file to write; its settings go beside it (.config.json)")
    add("--num", type=int, default=25, help="paraphrases per caption (default: %(default)s)")
    add("--llm", default=DEFAULT_LLM, help="chat model, hub id or folder (default: %(default)s)")
    add("--gguf_file", help="the file in --llm to read, for a model in GGUF format; needs the package gguf")
    add("--template_only", action="store_true", help="no chat model")
    add("--min_similarity", type=float, default=0.5, help="of the subject, in [0, 1] (default: %(default)s)")
    add("--max_similarity", type=float, default=0.95, help="of the wording, in [0, 1] (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the chat model's sampling (default: %(default)s)")
    add("--overwrite_captions", action="store_true", help="replace paraphrases that PROMPTS.jsonl already has")
    add("--overwrite", action="store_true", help="replace an output made under other settings")
    return parser


def check_args(args):
    if args.num < 1:
        raise InputError(f"--num {args.num} must be at least 1")
    for name in ("min_similarity", "max_similarity"):
        if not 0 <= getattr(args, name) <= 1:
            raise InputError(f"--{name} {getattr(args, name)} must be between 0 and 1")
    if args.output.resolve() == args.prompts.resolve():
        raise InputError(f"--output {args.output} is the prompt file itself; choose another")


def read_rows(path, overwrite_captions):
    """Rows of the prompt file without paraphrases.

    Raises:
        InputError: for a caption without words, a repeated index, or paraphrases that are already there.
    """
    rows = []
    for row in jsonl_rows(path):
        where = f"{path}, index {row['index']}"
        if not fold(row["caption"]):
            raise InputError(f"{where}: the caption {row['caption']!r} has no words to paraphrase")
        numbered = [key for key in row if NUMBERED.fullmatch(key)]
        if numbered and not overwrite_captions:
            raise InputError(f"{where}: has {numbered[0]} already; --overwrite_captions replaces it")
        rows.append({key: value for key, value in row.items() if key not in numbered})
    refuse_repeated_indices(path, [make_record(row, False) for row in rows])
    return rows


def open_chat(name, gguf_file):
    """The chat model; None, with a word why, if it cannot be had."""
    try:
        from tools.paraphrases.chat import Chat

        return Chat(name, gguf_file)
    except Exception as error:  # the loader raises a dozen kinds, all of which mean the same to the user
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        tqdm.write(f"warning: all paraphrases come from templates: cannot load the chat model {name}: {reason.strip()}")
        return None


def open_results(args, rows, chat):
    """The output with what it holds so far; rows made by another model, or of other prompts, are refused."""
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]
    settings = {name: getattr(args, name) for name in ("num", "min_similarity", "max_similarity")}
    # Templates that stand in for a model are not mixed with its answers once it is there.
    model = {"llm": args.llm, "gguf_file": args.gguf_file, "seed": args.seed} if chat else {"llm": None}
    try:
        return ResultsFile(args.output, {"prompts_digest": digest} | settings | model, overwrite=args.overwrite)
    except InputError as error:
        raise InputError(re.sub("--run_name|--output_dir", "--output", str(error))) from error


def paraphrase(row, args, chat):
    """The row with its paraphrases, the chat model's first."""
    caption = clean_prompt(row["caption"])
    found = Paraphrases(caption, args.num, args.min_similarity, args.max_similarity)
    for call in range(MAX_CALLS if chat else 0):
        if found.missing:
            found.offer(chat.captions(caption, seed_of(caption, args.seed, call)), "llm", chat.example_words)
    found.offer(template_paraphrases(caption), "template")
    numbered = {f"caption{k}": text for k, text in enumerate(found.texts, 1)}
    return row | numbered | {"paraphrase_source": found.counts}


def seed_of(caption, seed, call):
    return int.from_bytes(hashlib.sha256(f"{seed} {call} {caption}".encode()).digest()[:7], "big")


def summary(rows, num):
    """Markdown table of what became of each source's candidates, and how many captions have all paraphrases."""
    sources = dict.fromkeys(name for row in rows for name in row["paraphrase_source"])
    counts = {name: [row["paraphrase_source"].get(name, {}) for row in rows] for name in sources}
    table = [[name, *(sum(c.get(o, 0) for c in counts[name]) for o in OUTCOMES)] for name in sources]
    full = sum(f"caption{num}" in row for row in rows)
    return f"{format_table(['source', *OUTCOMES], table)}\n{full} of {len(rows)} captions have {num} paraphrases"


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        check_args(args)
        rows = read_rows(args.prompts, args.overwrite_captions)
        chat = None if args.template_only else open_chat(args.llm, args.gguf_file)
        results = open_results(args, rows, chat)
        todo = [row for row in rows if row["index"] not in results.done]
        for row in tqdm(todo, total=len(rows), initial=len(rows) - len(todo), desc="paraphrases", unit="prompt"):
            results.add(paraphrase(row, args, chat))
        print(summary(list(results.rows()), args.num))
        print(args.output)


if __name__ == "__main__":
    main()
