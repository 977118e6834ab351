"""Prompt sets: every kind of data set that --dataset takes, read into one kind of record."""

import html
import json
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import ftfy
import numpy as np
from PIL import Image, UnidentifiedImageError

from run_utils import ROOT, InputError

HUB_COLUMNS = {
    "Gustavosta/Stable-Diffusion-Prompts": ("test", "Prompt"),
    "ChristophSchuhmann/MS_COCO_2017_URL_TEXT": ("train", "TEXT"),
}
NOT_SHIPPED = {
    "sdv1_500_memorized.jsonl": "Webster's 500 prompts memorized by Stable Diffusion v1 (arXiv 2305.08694)",
    "sdv1_500_mem_groundtruth": "Webster's 500 prompts with their training images (arXiv 2305.08694)",
}
HOW_TO_GET = (
    "it is not ours to ship: take it from the repository of Wen et al. (github.com/YuxinWenRick/"
    "diffusion_memorization, folder examples and the links in its README) and put it at this path. "
    "examples/planted_memorized.jsonl and examples/planted_mem_groundtruth come with the code"
)


@dataclass(frozen=True)
class PromptRecord:
    """One prompt and what is known about it."""

    index: int
    prompt: str  # as the tokenizer gets it
    raw_prompt: str  # as the file has it
    alternatives: tuple = ()  # paraphrases for semantic search
    is_memorized: bool | None = None
    kind: str | None = None
    reference_images: tuple = ()  # paths of training images
    mask_path: Path | None = None  # true mask of the copied region


def load_prompts(dataset, start=0, end=None, prompt_key=None, clean_prompts=True, random_prompt=None):
    """Read a data set into records.

    Args:
        dataset: a .jsonl file; a folder NAME_groundtruth; a folder of NNN.jpg + NNN.txt pairs; `random`;
            or a Hugging Face data set (hub id or folder).
        start, end: which records by position, as in a slice; `index` stays that of the file.
        prompt_key: column of the prompt in a Hugging Face data set.
        clean_prompts: mend mojibake and HTML entities, as the CLIP tokenizer of 2023 did with ftfy. The
            current one does not, and the end token moves with such text.
        random_prompt: function from a `random.Random` to a prompt, for `random`.

    Returns:
        List of `PromptRecord`.

    Raises:
        InputError: one line that names file, line and remedy.
    """
    if end is not None and start >= end:
        raise InputError(f"--start {start} must be smaller than --end {end}")
    rows = read_rows(dataset, end, prompt_key, random_prompt)
    records = [make_record(row, clean_prompts) for row in islice(rows, start, end)]
    if not records:
        raise InputError(f"{dataset} has no prompts from --start {start} on")
    refuse_repeated_indices(dataset, records)
    return records


def read_rows(dataset, end, prompt_key, random_prompt):
    """Iterate over raw rows: dicts with caption, index and whatever else is known."""
    if dataset == "random":
        return random_rows(random_prompt)
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


def find_path(dataset):
    """The data set's path, as given or under examples/; None when it can only be a hub id."""
    for path in (Path(dataset), ROOT / dataset, ROOT / "examples" / dataset):
        if path.exists():
            return path
    name = Path(dataset).name
    if name in NOT_SHIPPED:
        raise InputError(f"{dataset} is not here: {NOT_SHIPPED[name]}; {HOW_TO_GET}")
    if dataset.endswith((".jsonl", "groundtruth")) or dataset.count("/") != 1 or dataset.startswith((".", "/")):
        raise InputError(f"data set {dataset} does not exist; give a .jsonl, a folder, `random` or a hub id")
    return None


def jsonl_rows(path):
    """Rows of a .jsonl file; each error names the file and line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    if not any(line.strip() for line in lines):
        raise InputError(f"{path} is empty; expected one JSON object a line with a caption")
    position = 0
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield {"index": position, **parse_line(path, number, line)}
            position += 1


def parse_line(path, number, line):
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: expected a JSON object")
    caption = row.get("caption", row.get("prompt"))
    if not isinstance(caption, str):
        raise InputError(f"{path}, line {number}: no text under the key caption (keys: {', '.join(row) or 'none'})")
    index = row.get("index", 0)
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise InputError(f"{path}, line {number}: index {index!r} is not a whole number from 0 on")
    return {**row, "caption": caption}


def ground_truth_rows(folder):
    """Rows of a NAME_groundtruth folder with reference images and, where there are any, masks."""
    names = (f"{folder.name}_repeated_withss.jsonl", f"{folder.name}_repeated.jsonl")
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise InputError(f"{folder} has neither {names[0]} nor {names[1]}")
    if not (folder / "gt_images").is_dir():
        raise InputError(f"{folder} has no folder gt_images with the training images, gt_images/INDEX/*.png")
    for row in jsonl_rows(files[0]):
        images = sorted(p for p in (folder / "gt_images" / str(row["index"])).glob("*") if p.is_file())
        if not images:
            raise InputError(f"{folder} has no images in gt_images/{row['index']}")
        mask = folder / "gt_masks" / f"{row['index']}.png"
        yield {**row, "reference_images": tuple(images), "mask_path": mask if mask.is_file() else None}


def pair_rows(folder):
    """Rows of a folder of images with a text file each."""
    for position, text in enumerate(sorted(folder.glob("*.txt"))):
        images = tuple(p for p in (text.with_suffix(s) for s in (".jpg", ".jpeg", ".png")) if p.is_file())
        if not images:
            raise InputError(f"{text} has no image of the same name beside it (.jpg, .jpeg or .png)")
        index = int(text.stem) if text.stem.isdigit() else position
        yield {"caption": text.read_text(encoding="utf-8").strip(), "index": index, "reference_images": images}


def random_rows(random_prompt):
    """An endless set of random prompts; prompt i is always the same."""
    index = 0
    while True:
        yield {"caption": random_prompt(random.Random(index)), "index": index, "is_memorized": False}
        index += 1


def hub_rows(location, name, end, prompt_key):
    """Rows of a Hugging Face data set."""
    import datasets

    split, column = HUB_COLUMNS.get(name, (None, prompt_key))
    try:
        splits = datasets.load_dataset(location)
    except Exception as error:  # the loader raises a dozen kinds, all of which mean the same to the user
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"cannot load data set {name}: {reason}") from error
    table = splits[split if split in splits else next(iter(splits))]
    column = prompt_key or column
    if column not in table.column_names:
        raise InputError(f"data set {name} needs --prompt_key, one of: {', '.join(table.column_names)}")
    texts = table.select(range(min(end or len(table), len(table))))[column]
    return ({"caption": text, "index": i} for i, text in enumerate(texts))


def make_record(row, clean_prompts):
    clean = clean_prompt if clean_prompts else str
    alternatives = []
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
    )


def clean_prompt(text):
    """Mend mojibake, curly quotes and ligatures (ftfy) and HTML entities, and strip white space."""
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip()


def refuse_repeated_indices(dataset, records):
    seen = set()
    for record in records:
        if record.index in seen:
            raise InputError(f"{dataset} has index {record.index} twice; images and rows are named by it")
        seen.add(record.index)


def read_image(path):
    """A reference image as uint8 array (height, width, 3).

    Raises:
        InputError: if it cannot be read, or is all black: a placeholder that would be a false reference.
    """
    try:
        image = np.asarray(Image.open(path).convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path} is not a readable image") from error
    if not image.any():
        raise InputError(f"{path} is all black, a placeholder; remove it or put the training image there")
    return image


def read_mask(path):
    """A true mask as bool array (height, width)."""
    return np.asarray(Image.open(path).convert("L")) > 127
