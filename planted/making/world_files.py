"""Write a planted world's prompt files and ground truth, as detect_mem.py, inference_mem.py and eval_mem.py take them.

    python planted/making/world_files.py --output FOLDER                    # of the drawn world
    python planted/making/world_files.py --output FOLDER --pictures PAIRS   # of a folder of captioned pictures

planted_memorized.jsonl       planted captions at the full dose, with their paraphrases
planted_doses.jsonl           all planted captions, of every dose
planted_nonmemorized.jsonl    captions of ordinary pictures that were never trained on
planted_prompts.jsonl         the full dose and the unseen ones, the default data set of detect_mem.py
planted_ordinary.jsonl        more unseen ones, for calibration and for what mitigations do to ordinary prompts
planted_near_miss.jsonl       captions one word away from one at the full dose, never trained on
planted_mem_groundtruth/      the full dose with training images and true masks
planted_doses_groundtruth/    the same of all planted captions
planted_control_groundtruth/  the ordinary ones with their pictures, which the model never saw
"""

import argparse
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from memorization.errors import InputError, exit_on_input_error
from memorization.runs.arguments import HelpFormatter
from planted.making.choice import choose_world
from planted.making.doses import FULL_DOSE
from planted.making.pictures import TrainingPicture
from planted.making.world import Item, World

UNSEEN_SEED = 4711
NUM_PARAPHRASES = 10  # that the files have of a planted caption, where there are as many
Row = dict[str, object]


def make_row(caption: str, index: int, kind: str, is_memorized: bool | None, dose: int, num_captions: int = 1) -> Row:
    """A line of a prompt file; what no picture of the training set carries has dose 0."""
    row: Row = {"caption": caption, "index": index, "url": None, "kind": kind, "is_memorized": is_memorized}
    return row | {"dose": dose, "num_captions": num_captions}


def planted_row(item: Item, with_paraphrases: bool) -> Row:
    """A planted item's line. Below the full dose nobody knows before the copies are counted: is_memorized is null."""
    memorized = True if item.dose == FULL_DOSE else None
    row = make_row(item.caption, item.number, item.kind, memorized, item.dose, item.num_captions)
    paraphrases = item.paraphrases[:NUM_PARAPHRASES] if with_paraphrases else ()
    return row | {f"caption{k}": text for k, text in enumerate(paraphrases, 1)}


def unseen_rows(pictures: Iterable[TrainingPicture]) -> list[Row]:
    return [make_row(p.captions[0], i, p.kind, False, 0) for i, p in enumerate(pictures)]


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_images(folder: Path, images: Iterable[np.ndarray]) -> None:
    folder.mkdir(parents=True)
    for k, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{k}.png")


def write_ground_truth(folder: Path, items: Sequence[Item]) -> None:
    """Training images and masks of planted items, with their prompts."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "gt_masks").mkdir(parents=True)
    write_rows(folder / f"{folder.name}_repeated.jsonl", [planted_row(i, False) for i in items])
    write_rows(folder / f"{folder.name}_repeated_withss.jsonl", [planted_row(i, True) for i in items])
    for item in tqdm(items, desc=folder.name):
        write_images(folder / "gt_images" / str(item.number), item.images)
        Image.fromarray(item.mask.astype(np.uint8) * 255).save(folder / "gt_masks" / f"{item.number}.png")


def write_control(folder: Path, pictures: Sequence[TrainingPicture]) -> None:
    """Pictures that the model never saw, laid out as training images are."""
    shutil.rmtree(folder, ignore_errors=True)
    for index, picture in enumerate(pictures):
        write_images(folder / "gt_images" / str(index), [picture.image])
    write_rows(folder / f"{folder.name}_repeated.jsonl", unseen_rows(pictures))


def write_world(world: World, folder: Path, seed: int, num_unseen: int) -> None:
    """All files of a world.

    Args:
        seed: that of the training, so that what it trained on is known.
        num_unseen: captions of the unseen prompts, and as many of the ordinary ones.

    Raises:
        InputError: if the world has not as many unseen pictures.
    """
    trained = {c for p in world.training_pictures(seed) for c in p.captions}
    unseen = world.unseen(2 * num_unseen, UNSEEN_SEED, trained)
    first, second = unseen[::2], unseen[1::2]  # alternately, so that both halves hold every kind
    items = world.items()
    full = [i for i in items if i.dose == FULL_DOSE]
    both = [*(planted_row(i, False) for i in full), *unseen_rows(first)]
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "planted_memorized.jsonl", [planted_row(i, True) for i in full])
    write_rows(folder / "planted_doses.jsonl", [planted_row(i, True) for i in items])
    write_rows(folder / "planted_nonmemorized.jsonl", unseen_rows(first))
    write_rows(folder / "planted_prompts.jsonl", [row | {"index": i} for i, row in enumerate(both)])
    near = [make_row(i.near_miss, i.number, "near_miss", False, 0) for i in full]
    write_rows(folder / "planted_near_miss.jsonl", near)
    write_rows(folder / "planted_ordinary.jsonl", unseen_rows(second))
    write_ground_truth(folder / "planted_mem_groundtruth", full)
    write_ground_truth(folder / "planted_doses_groundtruth", items)
    write_control(folder / "planted_control_groundtruth", second)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder that they are written into")
    parser.add_argument("--pictures", type=Path, help="folder of captioned pictures; without it the drawn world")
    parser.add_argument("--seed", type=int, default=7, help="that of the training")
    parser.add_argument("--num_unseen", type=int, default=48, help="of each of the two files of unseen captions")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        if args.num_unseen < 1:
            raise InputError(f"--num_unseen {args.num_unseen} is below 1")
        write_world(choose_world(args.pictures, args.seed), args.output, args.seed, args.num_unseen)


if __name__ == "__main__":
    main()
