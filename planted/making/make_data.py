"""Write the planted world's prompt files and ground truth next to this script.

    python planted/making/make_data.py

planted_memorized.jsonl      48 planted captions (24 verbatim, 24 template) with ten paraphrases each
planted_nonmemorized.jsonl   48 captions of the same grammar that were never trained on
planted_prompts.jsonl        both of the above, the default data set of detect_mem.py
planted_ordinary.jsonl       48 more of that kind, for calibration and for what mitigations do to ordinary prompts
planted_near_miss.jsonl      48 captions one word away from a planted one, never trained on
planted_mem_groundtruth/     the planted captions with their training images and true masks
planted_control_groundtruth/ 24 pictures of the same kind that were never trained on, with their captions
"""

import json
import random
import shutil

import numpy as np
from PIL import Image

from memorization.bundled import PLANTED
from planted.making.scenes import (
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
from planted.making.train_model import captioned, make_scenes

TRAINING_SEED = 7
NUM_EACH = 24
TEMPLATE_IMAGES = 4  # training images kept per template, to show its free region vary


def planted_rows(with_paraphrases):
    rows = []
    for item in planted_items():
        color = template_color(item) if item.kind == "template" else None
        row = {
            "caption": item.caption(color),
            "index": item.number,
            "url": None,
            "kind": item.kind,
            "is_memorized": True,
        }
        if with_paraphrases:
            row |= {f"caption{k}": text for k, text in enumerate(item.paraphrases(color), 1)}
        rows.append(row)
    return rows


def trained_captions():
    return {s.caption for family in captioned(make_scenes(TRAINING_SEED)).values() for s in family}


def unseen_scenes(seed, taken):
    """Half shapes and half clutter, with captions none of which are in `taken`."""
    rng, held_out = random.Random(seed), held_out_captions()
    return [
        *fresh_scenes(lambda: shapes_scene(rng), taken, is_held_out_shape),
        *fresh_scenes(lambda: clutter_scene(rng, held_out), taken),
    ]


def fresh_scenes(draw, taken, wanted=lambda caption: True):
    scenes = {}
    while len(scenes) < NUM_EACH:
        scene = draw()
        if wanted(scene.caption) and scene.caption not in taken:
            scenes.setdefault(scene.caption, scene)
    return list(scenes.values())


def unseen_rows(scenes):
    return [
        {"caption": s.caption, "index": i, "url": None, "kind": s.kind, "is_memorized": False}
        for i, s in enumerate(scenes)
    ]


def near_miss_rows():
    return [
        {"caption": near_miss(i), "index": i.number, "url": None, "kind": "near_miss", "is_memorized": False}
        for i in planted_items()
    ]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_control(folder, scenes):
    """Pictures that the model never saw, laid out as training images are."""
    shutil.rmtree(folder, ignore_errors=True)
    for row, scene in zip(unseen_rows(scenes), scenes, strict=True):
        path = folder / "gt_images" / str(row["index"]) / "0.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(scene.image).save(path)
    write_rows(folder / f"{folder.name}_repeated.jsonl", unseen_rows(scenes))


def write_ground_truth(folder):
    """Training images and masks; a template's first image has the colour its prompt asks for."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "gt_masks").mkdir(parents=True)
    write_rows(folder / f"{folder.name}_repeated.jsonl", planted_rows(False))
    write_rows(folder / f"{folder.name}_repeated_withss.jsonl", planted_rows(True))
    for item in planted_items():
        rng = random.Random(item.number)
        if item.kind == "verbatim":
            scenes = [verbatim_scene(item)]
        else:
            scenes = [template_scene(item, rng, template_color(item)) for _ in range(TEMPLATE_IMAGES)]
        images = folder / "gt_images" / str(item.number)
        images.mkdir(parents=True)
        for k, scene in enumerate(scenes):
            Image.fromarray(scene.image).save(images / f"{k}.png")
        Image.fromarray(scenes[0].mask.astype(np.uint8) * 255).save(folder / "gt_masks" / f"{item.number}.png")


def main():
    trained = trained_captions()
    unseen = unseen_rows(unseen_scenes(4711, trained))
    ordinary = unseen_scenes(4712, trained | {row["caption"] for row in unseen})
    planted = planted_rows(True)
    write_rows(PLANTED / "planted_memorized.jsonl", planted)
    write_rows(PLANTED / "planted_nonmemorized.jsonl", unseen)
    both = [*planted_rows(False), *unseen]
    write_rows(PLANTED / "planted_prompts.jsonl", [row | {"index": i} for i, row in enumerate(both)])
    write_rows(PLANTED / "planted_near_miss.jsonl", near_miss_rows())
    write_rows(PLANTED / "planted_ordinary.jsonl", unseen_rows(ordinary))
    write_ground_truth(PLANTED / "planted_mem_groundtruth")
    write_control(PLANTED / "planted_control_groundtruth", ordinary[NUM_EACH:])


if __name__ == "__main__":
    main()
