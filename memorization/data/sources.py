"""Every kind of data set that --dataset takes, read into raw rows: dicts with caption, index and what else is known."""

import random
import string
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

from memorization.bundled import PLANTED, ROOT, bundled_name
from memorization.errors import InputError, first_line
from memorization.files.json_lines import decode_line, numbered_lines
from memorization.files.whole import read_text
from memorization.seeds import LARGEST_INDEX

HUB_COLUMNS = {
    "Gustavosta/Stable-Diffusion-Prompts": ("test", "Prompt"),
    "ChristophSchuhmann/MS_COCO_2017_URL_TEXT": ("train", "TEXT"),
}
NOT_SHIPPED = {
    "sdv1_500_memorized.jsonl": "Webster's 500 prompts memorized by Stable Diffusion v1 (arXiv 2305.08694)",
    "sdv1_500_mem_groundtruth": "Webster's 500 prompts with their training images (arXiv 2305.08694)",
}
HOW_TO_GET = (
    "it is not ours to ship: `bash tools/download_data.sh` lists it with its licence, and with its name there "
    "(prompts, groundtruth) fetches it to this path. "
    "planted/planted_memorized.jsonl and planted/planted_mem_groundtruth come with the code"
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")

RandomPrompt = Callable[[random.Random], str]


def read_rows(
    dataset: str, end: int | None, prompt_key: str | None, random_prompt: RandomPrompt, seed: int
) -> Iterator[dict]:
    """Iterate over the raw rows of a data set; `load_prompts` says what there is.

    Raises:
        InputError: one line that names file, line and remedy.
    """
    if dataset == "random":
        return random_rows(random_prompt, seed)
    path = find_path(dataset)
    if path is None:
        return hub_rows(dataset, dataset, end, prompt_key)
    if path.is_file():
        return jsonl_rows(path)
    if path.name.endswith("groundtruth"):
        return ground_truth_rows(path)
    if any(path.glob("*.txt")):
        return pair_rows(path)
    return hub_rows(str(path), dataset, end, prompt_key)


def find_path(dataset: str) -> Path | None:
    """The data set's path: as given, below the code's folder, planted/ or examples/; None of what may be a hub id.

    A path of a bundled data set that is of another clone, or of examples/ where it lay once, gives that of this one.

    Raises:
        InputError: if there is none and the name can be no hub id.
    """
    if not dataset:
        raise InputError("--dataset is empty; give a .jsonl, a folder, `random` or a hub id")
    for path in (Path(dataset), ROOT / dataset, PLANTED / str(bundled_name(dataset)), ROOT / "examples" / dataset):
        if path.exists():
            return path
    name = Path(dataset).name
    if name in NOT_SHIPPED:
        raise InputError(f"{dataset} is not here: {NOT_SHIPPED[name]}; {HOW_TO_GET}")
    if dataset.endswith((".jsonl", "groundtruth")) or dataset.count("/") != 1 or dataset.startswith((".", "/")):
        raise InputError(f"data set {dataset} does not exist; give a .jsonl, a folder, `random` or a hub id")
    return None


def jsonl_rows(path: Path) -> Iterator[dict]:
    """Rows of a .jsonl file; blank lines are left out.

    Raises:
        InputError: if the file is empty or a line is no row, naming file and line.
    """
    position = 0
    for number, line in numbered_lines(path):
        if line.strip():
            row = decode_line(path, number, line)
            yield {"index": position, **check_row(f"{path}, line {number}", row)}
            position += 1
    if not position:
        raise InputError(f"{path} is empty; expected one JSON object a line with a caption")


def check_row(where: str, row: object) -> dict:
    """A row with its text under `caption`, when its fields are of their types."""
    if not isinstance(row, dict):
        raise InputError(f"{where}: expected a JSON object")
    broken = next((k for k, v in row.items() if isinstance(v, str) and not is_unicode(v)), None)
    if broken is not None:
        raise InputError(f"{where}: {broken} holds half a surrogate pair, as \\ud800; write it whole")
    caption = row.get("caption", row.get("prompt"))
    if not isinstance(caption, str):
        raise InputError(f"{where}: no text under the key caption (keys: {', '.join(row) or 'none'})")
    index = row.get("index", 0)
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= LARGEST_INDEX:
        raise InputError(f"{where}: index {index!r} is not a whole number from 0 to {LARGEST_INDEX}")
    for key, expected, told in (
        ("is_memorized", bool, "true or false"),
        ("kind", str, "text"),
        ("url", str, "text"),
    ):
        if not isinstance(row.get(key), expected | None):
            raise InputError(f"{where}: {key} {row[key]!r} is neither {told} nor null")
    return {**row, "caption": caption}


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell half a surrogate pair, which is no character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def ground_truth_rows(folder: Path) -> Iterator[dict]:
    """Rows of a NAME_groundtruth folder with reference images and, where there are any, masks."""
    names = (f"{folder.name}_repeated_withss.jsonl", f"{folder.name}_repeated.jsonl", f"{folder.name}.jsonl")
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise InputError(f"{folder} has none of {', '.join(names)}")
    if not (folder / "gt_images").is_dir():
        raise InputError(f"{folder} has no folder gt_images with the training images, gt_images/INDEX/*.png")
    for row in jsonl_rows(files[0]):
        files_of_row = (folder / "gt_images" / str(row["index"])).glob("*")
        images = sorted(p for p in files_of_row if p.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise InputError(f"{folder} has no images in gt_images/{row['index']}")
        mask = folder / "gt_masks" / f"{row['index']}.png"
        yield {**row, "reference_images": tuple(images), "mask_path": mask if mask.is_file() else None}


def pair_rows(folder: Path) -> Iterator[dict]:
    """Rows of a folder of images with a text file each."""
    for position, text in enumerate(sorted(folder.glob("*.txt"))):
        images = tuple(p for p in (text.with_suffix(s) for s in IMAGE_SUFFIXES) if p.is_file())
        if not images:
            raise InputError(f"{text} has no image of the same name beside it (.jpg, .jpeg or .png)")
        index = int(text.stem) if text.stem.isdecimal() else position
        if index > LARGEST_INDEX:
            raise InputError(f"{text} is numbered above {LARGEST_INDEX}; give it a shorter name")
        yield {"caption": read_text(text).strip(), "index": index, "reference_images": images}


def random_rows(random_prompt: RandomPrompt, seed: int) -> Iterator[dict]:
    """An endless set of random prompts; prompt i depends on i and the seed only."""
    for index in count():
        rng = random.Random(seed * 10**9 + index)
        yield {"caption": random_prompt(rng), "index": index, "is_memorized": False}


def random_letters(rng: random.Random) -> str:
    """Ten words of three to eight random letters: a prompt where there is no tokenizer to draw from."""
    lengths = [rng.randint(3, 8) for _ in range(10)]
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=k)) for k in lengths)


def hub_rows(location: str, name: str, end: int | None, prompt_key: str | None) -> Iterator[dict]:
    """Rows of a Hugging Face data set, by hub id or in a folder, whose column of prompts is `prompt_key`."""
    import datasets

    split, column = HUB_COLUMNS.get(name, (None, prompt_key))
    try:
        splits = datasets.load_dataset(location)
    except Exception as error:  # the loader raises a dozen kinds, all of which mean the same to the user
        raise InputError(f"cannot load data set {name}: {first_line(error)}") from error
    table = splits[next((s for s in (split, "train") if s in splits), next(iter(splits)))]
    column = prompt_key or column
    if column not in table.column_names:
        raise InputError(f"data set {name} needs --prompt_key, one of: {', '.join(table.column_names)}")
    texts = table.select(range(min(end or len(table), len(table))))[column]
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"data set {name}: column {column} holds no text in row {wrong}")
    return ({"caption": text, "index": i} for i, text in enumerate(texts))


def whole_words(tokenizer) -> list[str]:
    """The words of letters among a tokenizer's tokens, sorted: what random prompts are made of.

    Args:
        tokenizer: of transformers, with CLIP's `</w>` at the ends of words.
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    pieces = (t.removesuffix("</w>") for t in vocabulary if t.endswith("</w>"))
    return sorted(p for p in pieces if p.isalpha() and p.isascii() and len(p) > 2)


def token_texts(tokenizer, largest: int = 49_400) -> list[str]:
    """The text of each of a tokenizer's first tokens, in order of their ids, without begin and end token.

    Args:
        tokenizer: of transformers.
        largest: how many there are at most; CLIP's own has 49,408, a smaller one is taken whole.
    """
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    ids = [i for i in sorted(tokenizer.get_vocab().values())[:largest] if i not in special]
    return tokenizer.batch_decode([[i] for i in ids])
