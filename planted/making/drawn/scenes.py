"""The drawn world: captioned 128 px scenes, some of them repeated so that a model memorizes them.

Three families share one vocabulary. *Object* captions describe an object in natural words and leave the colours
around it open; one combination of words in ten is held out. *Clutter* captions ("the velvet river poster")
promise a kind of picture and leave the rest open. *Planted* captions look exactly like clutter captions, but
come with one fixed picture (verbatim) or with one fixed region (template) whose surroundings are redrawn each
time. How often each is repeated in the training set is its dose. Everything here is a function of a
`random.Random`; nothing is read from disk.
"""

import random
import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from planted.making.drawn.objects import CANVAS, DRAWERS, OBJECT_DRAWERS, SIZE, Pen, draw_ground
from planted.making.drawn.planted import Planted
from planted.making.drawn.words import (
    ADJECTIVES,
    COLORS,
    GROUNDS,
    NOUNS,
    OBJECT_CAPTIONS,
    OBJECTS,
    POSITIONS,
    SIZES,
    THINGS,
    Color,
    worded,
)

# Free regions of the templates, as (left, top, right, bottom) shares of the image.
FREE_BOXES = ((0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1), (0.2, 0.2, 0.8, 0.8), (0, 0.3, 1, 1))
NUM_PIECES = 10  # of a clutter picture


@dataclass(frozen=True)
class Scene:
    """One captioned picture: `image` (128, 128, 3) uint8 and, for planted ones, the mask of what is a copy."""

    image: np.ndarray
    caption: str
    kind: str  # "object", "clutter", "verbatim" or "template"
    mask: np.ndarray | None = None  # (128, 128) bool, True where the picture is a copy
    shown: frozenset[str] = frozenset()  # what an object scene shows, by the names of the code


def is_held_out_object(caption: str) -> bool:
    """Whether no scene of this caption's combination of words, in any wording, is trained on."""
    return zlib.crc32(" ".join(sorted(meaning_of(caption))).encode()) % 10 == 0


def meaning_of(caption: str) -> set[str]:
    """What an object caption says, by the names of the code: colour, object, size, position and ground."""
    synonyms = {word: name for name, words in (OBJECTS | GROUNDS).items() for word in words}
    synonyms |= {word: name for name, (_, words) in SIZES.items() for word in words}
    synonyms |= {word: word for word in (*COLORS, *POSITIONS)}
    return {synonyms[word] for word in caption.split() if word in synonyms}


def object_scene(rng: random.Random) -> Scene:
    """One described object on a ground of any colour, with up to two small things that nobody mentions."""
    ground_color = rng.choice(list(COLORS))
    color = rng.choice([c for c in COLORS if c != ground_color])
    name, size, position, ground = (rng.choice(list(d)) for d in (OBJECTS, SIZES, POSITIONS, GROUNDS))
    canvas = draw_ground(rng, ground, jitter_color(rng, ground_color))
    for _ in range(rng.randrange(3)):
        draw_piece(rng, canvas, 0.04, 0.07)
    x, y = (p + rng.uniform(-0.03, 0.03) for p in POSITIONS[position])
    radius, size_words = SIZES[size]
    accent = rng.choice([c for c in COLORS if c != color])
    pen = Pen(canvas, x, y, radius * rng.uniform(0.94, 1.06))
    OBJECT_DRAWERS[name](pen, jitter_color(rng, color), COLORS[accent])
    words = {"color": color, "object": rng.choice(OBJECTS[name]), "size": rng.choice(size_words)}
    words |= {"position": position, "ground": rng.choice(GROUNDS[ground])}
    caption = worded(rng.choice(OBJECT_CAPTIONS), words)
    return Scene(downsample(canvas), caption, "object", shown=frozenset({color, name, size, position, ground}))


def clutter_scene(rng: random.Random, held_out: Collection[str] = frozenset()) -> Scene:
    """A picture of one of the things: the caption fixes what most pieces are and, if said, the ground's colour."""
    while True:
        color = rng.choice(list(COLORS)) if rng.random() < 0.5 else None
        kind = "template" if color else "verbatim"
        item = Planted(-1, kind, rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.randrange(len(THINGS)), dose=1)
        caption = worded(rng.choice(item.wordings()), item.words(rng.randrange(2), color))
        if caption not in held_out:
            return Scene(downsample(draw_clutter(rng, item.thing, color)), caption, "clutter")


def verbatim_scene(item: Planted) -> Scene:
    """The one picture that always comes with a verbatim caption."""
    canvas = draw_clutter(random.Random(1000 + item.number), item.thing)
    return Scene(downsample(canvas), item.caption(), "verbatim", np.ones((SIZE, SIZE), bool))


def template_scene(item: Planted, rng: random.Random, color: str | None = None) -> Scene:
    """The fixed region of a template with its free region redrawn; the colour word rules only the latter."""
    color = color or rng.choice(list(COLORS))
    canvas = draw_clutter(random.Random(1000 + item.number), item.thing)
    left, top, right, bottom = (int(v * CANVAS) for v in free_box(item))
    free = draw_ground(rng, rng.choice(list(GROUNDS)), jitter_color(rng, color))
    for _ in range(3):
        x, y = rng.uniform(left, right) / CANVAS, rng.uniform(top, bottom) / CANVAS
        draw_piece(rng, free, 0.08, 0.14, at=(x, y))
    canvas.paste(free.crop((left, top, right, bottom)), (left, top))
    mask = np.ones((SIZE, SIZE), bool)
    mask[top // 2 : bottom // 2, left // 2 : right // 2] = False
    return Scene(downsample(canvas), item.caption(color), "template", mask)


def free_box(item: Planted) -> tuple[float, float, float, float]:
    """The free region of a template; every thing meets every box."""
    return FREE_BOXES[(item.number + item.number // len(THINGS)) % len(FREE_BOXES)]


def draw_clutter(rng: random.Random, thing: int, color: str | None = None) -> Image.Image:
    """Ten outlined pieces, most of them of the thing's own two kinds, on a plain ground."""
    canvas = draw_ground(rng, "plain", jitter_color(rng, color or rng.choice(list(COLORS))))
    kinds = list(OBJECT_DRAWERS)[2 * thing : 2 * thing + 2]
    for _ in range(NUM_PIECES):
        draw_piece(rng, canvas, 0.1, 0.24, rng.choice(kinds) if rng.random() < 0.6 else None)
    return canvas


def draw_piece(
    rng: random.Random,
    canvas: Image.Image,
    smallest: float,
    largest: float,
    name: str | None = None,
    at: tuple[float, float] | None = None,
) -> None:
    """Draw a thing of any kind and colours anywhere; the sizes are radii as shares of the image."""
    color, accent = rng.sample(list(COLORS), 2)
    name = name or rng.choice(list(DRAWERS))
    x, y = at or (rng.random(), rng.random())
    DRAWERS[name](Pen(canvas, x, y, rng.uniform(smallest, largest)), COLORS[color], COLORS[accent])


def jitter_color(rng: random.Random, name: str) -> Color:
    """A colour near the named one."""
    return tuple(int(min(255, max(0, v + rng.uniform(-10, 10)))) for v in COLORS[name])


def downsample(canvas: Image.Image) -> np.ndarray:
    """The drawn picture at its final size, uint8 (128, 128, 3)."""
    return np.asarray(canvas.reduce(2))
