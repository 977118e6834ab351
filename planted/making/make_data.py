"""Write the planted world's prompt files and ground truth into `planted/`.

    python planted/making/make_data.py

planted_memorized.jsonl      48 planted captions (24 verbatim, 24 template) with ten paraphrases each
planted_nonmemorized.jsonl   48 captions of the same grammar that were never trained on
planted_prompts.jsonl        both of the above, the default data set of detect_mem.py
planted_ordinary.jsonl       48 more of that kind, for calibration and for what mitigations do to ordinary prompts
planted_near_miss.jsonl      48 captions one word away from a planted one, never trained on
planted_mem_groundtruth/     the planted captions with their training images and true masks
planted_control_groundtruth/ 24 pictures of the same kind that were never trained on, with their captions
"""

import argparse
import json
import random
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from memorization.bundled import PLANTED
from memorization.runs.arguments import HelpFormatter
from planted.making.scenes import (
    Planted,
    Scene,
    clutter_scene,
    held_out_captions,
    is_held_out_shape,
    near_miss,
    planted_items,
    shapes_scene,
    template_color,
    template_scene,
    verbatim_scene,
)
from planted.making.training_set import captioned, make_scenes

TRAINING_SEED = 7
NUM_EACH = 24
TEMPLATE_IMAGES = 4  # training images kept per template, to show its free region vary


def make_row(caption: str, index: int, kind: str, is_memorized: bool) -> dict[str, object]:
    """A line of a prompt file."""
    return {"caption": caption, "index": index, "url": None, "kind": kind, "is_memorized": is_memorized}


def planted_rows(with_paraphrases: bool) -> list[dict[str, object]]:
    rows = []
    for item in planted_items():
        color = template_color(item) if item.kind == "template" else None
        row = make_row(item.caption(color), item.number, item.kind, True)
        if with_paraphrases:
            row |= {f"caption{k}": text for k, text in enumerate(item.paraphrases(color), 1)}
        rows.append(row)
    return rows


def trained_captions() -> set[str]:
    return {s.caption for family in captioned(make_scenes(TRAINING_SEED)).values() for s in family}


def unseen_scenes(seed: int, taken: Collection[str]) -> list[Scene]:
    """Half shapes and half clutter, with captions none of which are in `taken`."""
    rng, held_out = random.Random(seed), held_out_captions()
    return [
        *fresh_scenes(lambda: shapes_scene(rng), taken, is_held_out_shape),
        *fresh_scenes(lambda: clutter_scene(rng, held_out), taken),
    ]


def fresh_scenes(
    draw: Callable[[], Scene], taken: Collection[str], wanted: Callable[[str], bool] = lambda caption: True
) -> list[Scene]:
    """Scenes of different captions that are wanted and not taken."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < NUM_EACH:
        scene = draw()
        if wanted(scene.caption) and scene.caption not in taken:
            scenes.setdefault(scene.caption, scene)
    return list(scenes.values())


def unseen_rows(scenes: Iterable[Scene]) -> list[dict[str, object]]:
    return [make_row(s.caption, i, s.kind, False) for i, s in enumerate(scenes)]


def near_miss_rows() -> list[dict[str, object]]:
    return [make_row(near_miss(i), i.number, "near_miss", False) for i in planted_items()]


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_control(folder: Path, scenes: Sequence[Scene]) -> None:
    """Pictures that the model never saw, laid out as training images are."""
    shutil.rmtree(folder, ignore_errors=True)
    rows = unseen_rows(scenes)
    for row, scene in zip(rows, scenes, strict=True):
        path = folder / "gt_images" / str(row["index"]) / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(scene.image).save(path)
    write_rows(folder / f"{folder.name}_repeated.jsonl", rows)


def training_scenes(item: Planted) -> list[Scene]:
    """What is kept of an item's training images; a template's first has the colour that its prompt asks for."""
    if item.kind == "verbatim":
        return [verbatim_scene(item)]
    rng = random.Random(item.number)
    return [template_scene(item, rng, template_color(item)) for _ in range(TEMPLATE_IMAGES)]


def write_ground_truth(folder: Path) -> None:
    """Training images and masks of all planted captions."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "gt_masks").mkdir(parents=True)
    write_rows(folder / f"{folder.name}_repeated.jsonl", planted_rows(False))
    write_rows(folder / f"{folder.name}_repeated_withss.jsonl", planted_rows(True))
    for item in planted_items():
        scenes = training_scenes(item)
        images = folder / "gt_images" / str(item.number)
        images.mkdir(parents=True)
        for k, scene in enumerate(scenes):
            Image.fromarray(scene.image).save(images / f"{k}.png")
        assert scenes[0].mask is not None
        Image.fromarray(scenes[0].mask.astype(np.uint8) * 255).save(folder / "gt_masks" / f"{item.number}.png")


def write_all(folder: Path) -> None:
    trained = trained_captions()
    unseen = unseen_rows(unseen_scenes(4711, trained))
    ordinary = unseen_scenes(4712, trained | {str(row["caption"]) for row in unseen})
    both = [*planted_rows(False), *unseen]
    write_rows(folder / "planted_memorized.jsonl", planted_rows(True))
    write_rows(folder / "planted_nonmemorized.jsonl", unseen)
    write_rows(folder / "planted_prompts.jsonl", [row | {"index": i} for i, row in enumerate(both)])
    write_rows(folder / "planted_near_miss.jsonl", near_miss_rows())
    write_rows(folder / "planted_ordinary.jsonl", unseen_rows(ordinary))
    write_ground_truth(folder / "planted_mem_groundtruth")
    write_control(folder / "planted_control_groundtruth", ordinary[NUM_EACH:])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--output", type=Path, default=PLANTED, help="folder that they are written into")
    write_all(parser.parse_args(argv).output)


if __name__ == "__main__":
    main()
