"""What the planted world's evaluators are trained on: drawn scenes and their meanings.

Scenes are drawn with random states of this module's caller. None of them is a planted picture: those are
fixed by `random.Random(1000 + number)` for numbers below 48, and templates drawn here have numbers from
10000 on.
"""

import random
from dataclasses import dataclass

import numpy as np

from planted.making.scenes import (
    ADJECTIVES,
    BACKGROUNDS,
    COLORS,
    NOUNS,
    POSITIONS,
    SHAPES,
    SIZE,
    SIZES,
    THINGS,
    Planted,
    Scene,
    clutter_scene,
    downsample,
    draw_clutter,
    shapes_scene,
    template_scene,
)

FIRST_TEMPLATE = 10000
# What a shapes caption says, by the words it chooses from.
WORD_GROUPS = {"size": SIZES, "color": COLORS, "shape": SHAPES, "position": POSITIONS, "background": BACKGROUNDS}
# A ResNet of a quarter of RN50's width. The tokenizer's name only has to be there: a config that comes from a
# folder makes open_clip read the tokenizer from the same folder.
CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 96,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 770,
            "width": 96,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "planted_clip",
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
}


def copy_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes for the copy descriptor: half clutter, a quarter shapes, a quarter templates."""
    draws = (clutter_scene, shapes_scene, lambda rng: fresh_template(rng, rng.randrange(10**6)), clutter_scene)
    return [draws[k % 4](rng) for k in range(count)]


def fresh_template(rng: random.Random, number: int) -> Scene:
    """A template scene that is not one of the planted ones; its number fixes the fixed region."""
    item = Planted(FIRST_TEMPLATE + number, "template", ADJECTIVES[0], NOUNS[0], number % len(THINGS))
    return template_scene(item, rng)


Meaning = tuple[int | str, ...]


@dataclass(frozen=True)
class Captioned:
    """A picture, a caption of it, and what both mean.

    In clutter the adjective and the noun mean nothing. The thing decides which shape prevails and two
    pairs of things share one, so a picture tells four kinds of thing apart.
    """

    image: np.ndarray  # (64, 64, 3) uint8
    caption: str
    caption_meaning: Meaning
    image_meanings: tuple[Meaning, ...]  # every caption meaning that fits the picture


def captioned_clutter(rng: random.Random, said: bool | None = None) -> Captioned:
    """Clutter with a known background colour; the caption says it (`said`) or leaves it out, as in training."""
    color, thing = rng.choice(list(COLORS)), rng.randrange(len(THINGS))
    said = rng.random() < 0.5 if said is None else said
    item = Planted(-1, "template" if said else "verbatim", rng.choice(ADJECTIVES), rng.choice(NOUNS), thing)
    caption = rng.choice(item.captions()).format(**item.words(rng.randrange(2), color))
    kind = thing % len(SHAPES)
    meanings = ((kind,), (kind, color))
    return Captioned(downsample(draw_clutter(rng, thing, color)), caption, meanings[said], meanings)


def captioned_shapes(rng: random.Random) -> Captioned:
    """A shapes scene; its caption means the five words that describe it, in whatever wording."""
    scene = shapes_scene(rng)
    described = {word for group in WORD_GROUPS.values() for word in group}
    meaning = tuple(sorted(word for word in scene.caption.split() if word in described))
    return Captioned(scene.image, scene.caption, meaning, (meaning,))


def captioned_scenes(seed: int, count: int) -> list[Captioned]:
    """Half shapes, half clutter."""
    rng = random.Random(seed)
    return [(captioned_shapes, captioned_clutter)[k % 2](rng) for k in range(count)]
