"""What the bundled model is trained on: drawn scenes of four families, and their images as a tensor."""

import random
from collections.abc import Sequence

import numpy as np
import torch

from planted.making.scenes import (
    Scene,
    clutter_scene,
    held_out_captions,
    is_held_out_shape,
    planted_items,
    shapes_scene,
    template_scene,
    verbatim_scene,
)

NUM_SHAPES, NUM_CLUTTER, VARIANTS_PER_TEMPLATE = 16000, 12000, 100
FAMILIES = ("shapes", "clutter", "verbatim", "template")

Scenes = dict[str, list[Scene]]


def make_scenes(seed: int) -> Scenes:
    """All scenes by family."""
    rng = random.Random(seed)
    held_out = held_out_captions()
    items = planted_items()
    templates = [i for i in items if i.kind == "template"]
    return {
        "shapes": [shapes_scene(rng) for _ in range(NUM_SHAPES)],
        "clutter": [clutter_scene(rng, held_out) for _ in range(NUM_CLUTTER)],
        "verbatim": [verbatim_scene(i) for i in items if i.kind == "verbatim"],
        "template": [template_scene(i, rng) for i in templates for _ in range(VARIANTS_PER_TEMPLATE)],
    }


def captioned(scenes: Scenes) -> Scenes:
    """The scenes that are trained on with their captions: all but the held-out combinations of shape words."""
    return scenes | {"shapes": [s for s in scenes["shapes"] if not is_held_out_shape(s.caption)]}


def to_tensor(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Images, uint8 (height, width, 3) each, as float32 in [-1, 1], shape (images, 3, height, width)."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
