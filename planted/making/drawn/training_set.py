"""The drawn world's training set: ordinary pictures, and planted ones as often as their doses say."""

import random

import numpy as np
from tqdm import trange

from planted.making.doses import MOST_REDRAWN
from planted.making.drawn.planted import Planted, held_out_captions, planted_items
from planted.making.drawn.scenes import (
    Scene,
    clutter_scene,
    is_held_out_object,
    object_scene,
    template_scene,
    verbatim_scene,
)
from planted.making.pictures import TrainingPicture

NUM_OBJECTS, NUM_CLUTTER = 42000, 14000


def ordinary_pictures(
    seed: int, num_objects: int = NUM_OBJECTS, num_clutter: int = NUM_CLUTTER
) -> list[TrainingPicture]:
    """Pictures that are not repeated; combinations of object words that are held out are not among them."""
    rng, held_out = random.Random(seed), held_out_captions()
    pictures: list[TrainingPicture] = []
    for _ in trange(num_objects, desc="objects"):
        scene = object_scene(rng)
        while is_held_out_object(scene.caption):
            scene = object_scene(rng)
        pictures.append(TrainingPicture(scene.image, (scene.caption,), scene.kind))
    clutter = (clutter_scene(rng, held_out) for _ in trange(num_clutter, desc="clutter"))
    return pictures + [TrainingPicture(s.image, (s.caption,), s.kind) for s in clutter]


def planted_pictures(item: Planted) -> list[TrainingPicture]:
    """All training pictures of a planted item; their repeats add up to its dose."""
    if item.kind == "verbatim":
        return [TrainingPicture(verbatim_scene(item).image, tuple(item.training_captions()), item.kind, item.dose)]
    rng, different = random.Random(item.number), min(item.dose, MOST_REDRAWN)
    scenes: list[Scene] = [template_scene(item, rng) for _ in range(different)]
    return [TrainingPicture(s.image, (s.caption,), item.kind, item.dose // different) for s in scenes]


def training_pictures(seed: int) -> list[TrainingPicture]:
    """The whole training set."""
    return ordinary_pictures(seed) + [p for item in planted_items() for p in planted_pictures(item)]


def autoencoder_pictures(seed: int, count: int = 9000) -> np.ndarray:
    """What the autoencoder is trained on, a third objects, none of it planted: uint8 (pictures, 128, 128, 3)."""
    rng, held_out = random.Random(seed), held_out_captions()
    scenes = (clutter_scene(rng, held_out) if k % 3 else object_scene(rng) for k in trange(count, desc="pictures"))
    return np.stack([s.image for s in scenes])
