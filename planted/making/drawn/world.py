"""The drawn world, as the training and the data command take it."""

import random
from collections.abc import Callable, Collection

import numpy as np

from planted.making.drawn import training_set
from planted.making.drawn.planted import Planted, held_out_captions, near_miss, planted_items, template_color
from planted.making.drawn.scenes import (
    Scene,
    clutter_scene,
    is_held_out_object,
    object_scene,
    template_scene,
    verbatim_scene,
)
from planted.making.pictures import TrainingPicture
from planted.making.world import TEMPLATE_IMAGES, Item


class DrawnWorld:
    """The world of planted.making.drawn; see `World` for what each of its functions gives."""

    def autoencoder_pictures(self, seed: int) -> np.ndarray:
        return training_set.autoencoder_pictures(seed)

    def training_pictures(self, seed: int) -> list[TrainingPicture]:
        return training_set.training_pictures(seed)

    def held_out_captions(self) -> set[str]:
        return held_out_captions()

    def items(self) -> list[Item]:
        return [told(item) for item in planted_items()]

    def unseen(self, count: int, seed: int, taken: Collection[str]) -> list[TrainingPicture]:
        """Half objects of held-out combinations of words, half clutter."""
        rng, held_out = random.Random(seed), held_out_captions()
        objects = fresh_scenes(lambda: object_scene(rng), (count + 1) // 2, taken, is_held_out_object)
        clutter = fresh_scenes(lambda: clutter_scene(rng, held_out), count // 2, taken)
        return [TrainingPicture(s.image, (s.caption,), s.kind) for s in objects + clutter]


def told(item: Planted) -> Item:
    """An item as the data files tell it; a template's images have the colour that its caption asks for."""
    color = template_color(item) if item.kind == "template" else None
    rng = random.Random(item.number)
    scenes = [template_scene(item, rng, color) for _ in range(TEMPLATE_IMAGES)] if color else [verbatim_scene(item)]
    mask = scenes[0].mask
    assert mask is not None
    return Item(
        number=item.number,
        kind=item.kind,
        dose=item.dose,
        num_captions=item.num_captions,
        caption=item.caption(color),
        paraphrases=tuple(item.paraphrases(color)),
        near_miss=near_miss(item),
        images=tuple(s.image for s in scenes),
        mask=mask,
    )


def fresh_scenes(
    draw: Callable[[], Scene],
    count: int,
    taken: Collection[str],
    wanted: Callable[[str], bool] = lambda caption: True,
) -> list[Scene]:
    """Scenes of different captions that are wanted and not taken."""
    scenes: dict[str, Scene] = {}
    while len(scenes) < count:
        scene = draw()
        if wanted(scene.caption) and scene.caption not in taken:
            scenes.setdefault(scene.caption, scene)
    return list(scenes.values())
