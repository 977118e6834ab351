"""Every kind of data set that --dataset takes, read into raw rows: dicts with caption, index and what else is known."""

import random
import string
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path

from memorization.bundled import PLANTED, ROOT, bundled_name
from memorization.data.folders import MAX_TOLD, archive_rows, folder_rows, with_pictures
from memorization.data.hub import hub_rows
from memorization.data.tables import prompt_rows
from memorization.errors import InputError
from memorization.files.pixels import is_picture, picture_named

NOT_SHIPPED = {
    "sdv1_500_memorized.jsonl": "Webster's 500 prompts memorized by Stable Diffusion v1 (arXiv 2305.08694)",
    "sdv1_500_mem_groundtruth": "Webster's 500 prompts with their training images (arXiv 2305.08694)",
}
HOW_TO_GET = (
    "it is not ours to ship: `bash tools/download_data.sh` lists it with its licence, and with its name there "
    "(prompts, groundtruth) fetches it to this path. "
    "planted/planted_memorized.jsonl and planted/planted_mem_groundtruth come with the code"
)
FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".tar")  # of prompts
WANTED = f"a file ({', '.join(FILES)}), a folder, `random` or a hub id"

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
    if path.suffix == ".tar":
        return archive_rows([path])
    if path.is_file():
        rows = prompt_rows(path, prompt_key)
        return with_pictures(path, rows) if path.suffix.lower() == ".parquet" else rows
    if path.name.endswith("groundtruth"):
        return ground_truth_rows(path, prompt_key)
    captioned = folder_rows(path, prompt_key)
    return hub_rows(str(path), dataset, end, prompt_key) if captioned is None else captioned


def find_path(dataset: str) -> Path | None:
    """The data set's path: as given, below the code's folder, planted/ or examples/; None of what may be a hub id.

    A path of a bundled data set that is of another clone, or of examples/ where it lay once, gives that of this one.

    Raises:
        InputError: if there is none and the name can be no hub id.
    """
    if not dataset:
        raise InputError(f"--dataset is empty; give {WANTED}")
    for path in (Path(dataset), ROOT / dataset, PLANTED / str(bundled_name(dataset)), ROOT / "examples" / dataset):
        if path.exists():
            return path
    name = Path(dataset).name
    if name in NOT_SHIPPED:
        raise InputError(f"{dataset} is not here: {NOT_SHIPPED[name]}; {HOW_TO_GET}")
    looks_local = dataset.endswith((*FILES, "groundtruth")) or dataset.startswith((".", "/"))
    if looks_local or dataset.count("/") != 1:
        raise InputError(f"data set {dataset} does not exist; give {WANTED}")
    return None


def ground_truth_rows(folder: Path, prompt_key: str | None = None) -> Iterator[dict]:
    """Rows of a NAME_groundtruth folder with reference images and, where there are any, masks.

    A prompt whose picture could not be had, as of a dead link, has none.

    Raises:
        InputError: if there is no prompt file, none of the prompts has a picture, or a prompt's files are none.
    """
    names = (f"{folder.name}_repeated_withss.jsonl", f"{folder.name}_repeated.jsonl", f"{folder.name}.jsonl")
    files = [folder / name for name in names if (folder / name).is_file()]
    if not files:
        raise InputError(f"{folder} has none of {', '.join(names)}")
    if not (folder / "gt_images").is_dir():
        raise InputError(f"{folder} has no folder gt_images with the training images, gt_images/INDEX/*.png")
    rows = list(prompt_rows(files[0], prompt_key))
    images = [pictures_in(folder / "gt_images" / str(row["index"])) for row in rows]
    if not any(images):
        raise InputError(f"{folder} has no images in gt_images/{rows[0]['index']}, nor of any other prompt")
    for row, some in zip(rows, images, strict=True):
        mask = picture_named(folder / "gt_masks", row["index"])
        yield {**row, "reference_images": some, "mask_path": mask}


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """The pictures in a folder, sorted; none where it is empty or not there.

    Raises:
        InputError: if it holds files, none of which is a picture.
    """
    files = sorted(p for p in folder.glob("*") if not p.name.startswith("."))
    pictures = tuple(p for p in files if is_picture(p))
    if files and not pictures:
        held = ", ".join(p.name for p in files[:MAX_TOLD])
        raise InputError(f"{folder} holds no picture that Pillow reads, but {held}; convert them, or leave it empty")
    return pictures


def random_rows(random_prompt: RandomPrompt, seed: int) -> Iterator[dict]:
    """An endless set of random prompts; prompt i depends on i and the seed only."""
    for index in count():
        rng = random.Random(seed * 10**9 + index)
        yield {"caption": random_prompt(rng), "index": index, "is_memorized": False}


def random_letters(rng: random.Random) -> str:
    """Ten words of three to eight random letters: a prompt where there is no tokenizer to draw from."""
    lengths = [rng.randint(3, 8) for _ in range(10)]
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=k)) for k in lengths)


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
