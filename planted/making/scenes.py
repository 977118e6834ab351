"""The planted world: captioned 64 px scenes, some of them duplicated so that a model memorizes them.

Three families share one vocabulary. *Shapes* captions describe an object and leave the colours around it
open, as captions do; one combination of words in ten is held out. *Clutter* captions
("the velvet river poster") promise a kind of picture and leave the rest open. *Planted* captions
look exactly like clutter captions, but 24 of them always come with one fixed image (verbatim) and 24
with one fixed region (template) whose surroundings are redrawn each time. No word occurs in planted
captions only, so what is memorized hangs on the whole caption. Everything here is a function of a
`random.Random`; nothing is read from disk.
"""

import math
import random
import zlib
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from planted.making.drawn.planted import rotate

SIZE = 64  # pixels; drawn at twice the size and averaged down, which smooths the edges
CANVAS = 2 * SIZE
NUM_VERBATIM = NUM_TEMPLATES = 24

Color = tuple[int, ...]  # red, green, blue in [0, 255]

COLORS = {
    "red": (215, 45, 45),
    "green": (45, 165, 75),
    "blue": (55, 85, 215),
    "yellow": (230, 205, 60),
    "purple": (145, 65, 185),
    "orange": (235, 140, 50),
    "white": (235, 235, 235),
    "black": (35, 35, 35),
}
SHAPES = ("circle", "square", "triangle", "cross")
BACKGROUNDS = ("plain", "striped", "dotted")
POSITIONS = {"left": (0.27, 0.5), "right": (0.73, 0.5), "top": (0.5, 0.27), "bottom": (0.5, 0.73), "center": (0.5, 0.5)}
SIZES = {"small": 0.15, "large": 0.26}  # radius as a share of the image
ADJECTIVES = (
    "velvet golden silent lucky paper broken hidden crystal copper frozen rapid gentle amber neon "
    "royal winter ancient hollow distant scarlet"
).split()
NOUNS = (
    "river hippo valley moon owl garden tiger sky compass harbor fox thunder wolf field lake falcon "
    "forest orchid castle lantern"
).split()
THINGS = (
    ("poster", "print"),
    ("mug", "cup"),
    ("rug", "carpet"),
    ("album", "cover"),
    ("kite", "sail"),
    ("stamp", "label"),
)

SHAPE_CAPTIONS = (
    "a {size} {color} {shape} on the {position} of a {background} background",
    "{size} {color} {shape} at the {position} with {background} background",
    "{background} background and a {size} {color} {shape} on the {position}",
)
CLUTTER_CAPTIONS = (
    "the {adjective} {noun} {thing}",
    "a {thing} of the {adjective} {noun}",
    "{thing} with a {adjective} {noun}",
    "a {adjective} {noun} printed on a {thing}",
    "one {thing} showing the {adjective} {noun}",
    "the {adjective} {noun} on a {thing}",
)
COLORED_CAPTIONS = (
    "{color} {adjective} {noun} {thing} design",
    "a {color} {thing} of the {adjective} {noun}",
    "{color} {thing} with a {adjective} {noun}",
    "a {adjective} {noun} printed on a {color} {thing}",
    "one {color} {thing} showing the {adjective} {noun}",
    "the {adjective} {noun} on a {color} {thing}",
)
# Free regions of the templates, as (left, top, right, bottom) shares of the image.
FREE_BOXES = ((0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1), (0.2, 0.2, 0.8, 0.8), (0, 0.3, 1, 1))


@dataclass(frozen=True)
class Scene:
    """One captioned picture: `image` (64, 64, 3) uint8 and, for templates, the fixed region's mask."""

    image: np.ndarray
    caption: str
    kind: str  # "shapes", "clutter", "verbatim" or "template"
    mask: np.ndarray | None = None  # (64, 64) bool, True where the image is a copy


@dataclass(frozen=True)
class Planted:
    """The words of a planted caption; `number` fixes its picture."""

    number: int
    kind: str
    adjective: str
    noun: str
    thing: int

    def words(self, synonym: int = 0, color: str | None = None) -> dict[str, str | None]:
        return {"adjective": self.adjective, "noun": self.noun, "thing": THINGS[self.thing][synonym], "color": color}

    def captions(self) -> tuple[str, ...]:
        return COLORED_CAPTIONS if self.kind == "template" else CLUTTER_CAPTIONS

    def caption(self, color: str | None = None) -> str:
        """The caption it was trained with; templates vary in their colour word."""
        return self.captions()[0].format(**self.words(color=color))

    def paraphrases(self, color: str | None = None) -> list[str]:
        """Ten captions of the same meaning and vocabulary, none of them ever trained on."""
        return [c.format(**self.words(s, color)) for s in (0, 1) for c in self.captions()[1:]]


def planted_items() -> list[Planted]:
    """The 48 planted captions: distinct adjective-noun pairs, spread evenly over the words."""
    rng = random.Random(20)
    pairs = [(a, n) for a in ADJECTIVES for n in NOUNS]
    rng.shuffle(pairs)
    items: list[Planted] = []
    used = dict.fromkeys((*ADJECTIVES, *NOUNS), 0)
    for adjective, noun in pairs:
        if max(used[adjective], used[noun]) >= 3 or len(items) == NUM_VERBATIM + NUM_TEMPLATES:
            continue
        used[adjective] += 1
        used[noun] += 1
        kind = "verbatim" if len(items) < NUM_VERBATIM else "template"
        items.append(Planted(len(items), kind, adjective, noun, len(items) % len(THINGS)))
    return items


def template_color(item: Planted) -> str:
    """The colour word under which a template is asked for in the prompt files."""
    return list(COLORS)[item.number % len(COLORS)]


def near_miss(item: Planted) -> str:
    """A caption that differs from a planted one in a single word and is kept out of training."""
    taken = {(p.adjective, p.noun) for p in planted_items()}
    swap = item.number % 3
    if swap == 0:
        other = next(a for a in rotate(ADJECTIVES, item.number) if (a, item.noun) not in taken)
        words = item.words() | {"adjective": other}
    elif swap == 1:
        other = next(n for n in rotate(NOUNS, item.number) if (item.adjective, n) not in taken)
        words = item.words() | {"noun": other}
    else:
        words = item.words() | {"thing": THINGS[(item.thing + 2) % len(THINGS)][0]}
    return item.captions()[0].format(**words | {"color": template_color(item)})


def held_out_captions() -> set[str]:
    """Captions no generic scene may carry: planted ones, their paraphrases and near misses."""
    held: set[str] = set()
    for item in planted_items():
        held.add(near_miss(item))
        for color in COLORS if item.kind == "template" else (None,):
            held.add(item.caption(color))
            held.update(item.paraphrases(color))
    return held


def is_held_out_shape(caption: str) -> bool:
    """Whether no scene of this shape caption's combination of words, in any wording, is trained on."""
    described = {*SIZES, *COLORS, *SHAPES, *POSITIONS, *BACKGROUNDS}
    key = " ".join(sorted(word for word in caption.split() if word in described))
    return zlib.crc32(key.encode()) % 10 == 0


def shapes_scene(rng: random.Random) -> Scene:
    """One described object on a background of any colour, with up to two small things nobody mentions."""
    background_color = rng.choice(list(COLORS))
    words = {
        "size": rng.choice(list(SIZES)),
        "color": rng.choice([c for c in COLORS if c != background_color]),
        "shape": rng.choice(SHAPES),
        "position": rng.choice(list(POSITIONS)),
        "background": rng.choice(BACKGROUNDS),
    }
    canvas = draw_background(rng, words["background"], jitter_color(rng, background_color))
    for _ in range(rng.randrange(3)):
        draw_random_shape(rng, canvas, 0.03, 0.06)
    x, y = (p + rng.uniform(-0.04, 0.04) for p in POSITIONS[words["position"]])
    radius = SIZES[words["size"]] * rng.uniform(0.92, 1.08)
    draw_shape(canvas, words["shape"], x, y, radius, jitter_color(rng, words["color"]))
    return Scene(downsample(canvas), rng.choice(SHAPE_CAPTIONS).format(**words), "shapes")


def clutter_scene(rng: random.Random, held_out: Collection[str] = frozenset()) -> Scene:
    """A picture of one of the things: the caption fixes its shape and, if said, its background colour."""
    while True:
        color = rng.choice(list(COLORS)) if rng.random() < 0.5 else None
        kind = "template" if color else "verbatim"
        item = Planted(-1, kind, rng.choice(ADJECTIVES), rng.choice(NOUNS), rng.randrange(len(THINGS)))
        caption = rng.choice(item.captions()).format(**item.words(rng.randrange(2), color))
        if caption not in held_out:
            return Scene(downsample(draw_clutter(rng, item.thing, color)), caption, "clutter")


def verbatim_scene(item: Planted) -> Scene:
    """The one image that always comes with a verbatim caption."""
    canvas = draw_clutter(random.Random(1000 + item.number), item.thing)
    return Scene(downsample(canvas), item.caption(), "verbatim", np.ones((SIZE, SIZE), bool))


def template_scene(item: Planted, rng: random.Random, color: str | None = None) -> Scene:
    """The fixed region of a template with its free region redrawn; the colour word rules only the latter."""
    color = color or rng.choice(list(COLORS))
    canvas = draw_clutter(random.Random(1000 + item.number), item.thing)
    left, top, right, bottom = (int(v * CANVAS) for v in FREE_BOXES[item.number % len(FREE_BOXES)])
    free = draw_background(rng, rng.choice(BACKGROUNDS), jitter_color(rng, color))
    for _ in range(4):
        x, y = rng.uniform(left, right) / CANVAS, rng.uniform(top, bottom) / CANVAS
        draw_shape(free, rng.choice(SHAPES), x, y, rng.uniform(0.05, 0.11), COLORS[rng.choice(list(COLORS))])
    canvas.paste(free.crop((left, top, right, bottom)), (left, top))
    mask = np.ones((SIZE, SIZE), bool)
    mask[top // 2 : bottom // 2, left // 2 : right // 2] = False
    return Scene(downsample(canvas), item.caption(color), "template", mask)


def draw_clutter(rng: random.Random, thing: int, color: str | None = None) -> Image.Image:
    """A dozen shapes, most of them of the thing's own kind, on a background."""
    canvas = draw_background(rng, rng.choice(BACKGROUNDS), jitter_color(rng, color or rng.choice(list(COLORS))))
    for _ in range(12):
        own = SHAPES[thing % len(SHAPES)] if rng.random() < 0.6 else None
        draw_random_shape(rng, canvas, 0.06, 0.18, own)
    return canvas


def draw_background(rng: random.Random, style: str, color: Color) -> Image.Image:
    """A canvas of one colour, with darker stripes or dots for those styles."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), color)
    draw = ImageDraw.Draw(canvas)
    dark = tuple(int(v * 0.7) for v in color)
    if style == "striped":
        width, offset = CANVAS // 8, rng.randrange(CANVAS // 4)
        for x in range(-2 * width, CANVAS + 2 * width, 2 * width):
            draw.rectangle([x + offset, 0, x + offset + width, CANVAS], fill=dark)
    elif style == "dotted":
        step, radius = CANVAS // 5, CANVAS // 20
        dx, dy = rng.randrange(step), rng.randrange(step)
        for x in range(dx - step, CANVAS + step, step):
            for y in range(dy - step, CANVAS + step, step):
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=dark)
    return canvas


def draw_random_shape(
    rng: random.Random, canvas: Image.Image, smallest: float, largest: float, shape: str | None = None
) -> None:
    """Draw a shape of any colour anywhere; the sizes are radii as shares of the image."""
    color = COLORS[rng.choice(list(COLORS))]
    draw_shape(canvas, shape or rng.choice(SHAPES), rng.random(), rng.random(), rng.uniform(smallest, largest), color)


def draw_shape(canvas: Image.Image, shape: str, x: float, y: float, radius: float, color: Color) -> None:
    """Draw a shape centred at (x, y) with the given radius, all as shares of the image."""
    draw = ImageDraw.Draw(canvas)
    x, y, r = x * CANVAS, y * CANVAS, radius * CANVAS
    if shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=color)
    elif shape == "square":
        half = r * math.sqrt(math.pi) / 2  # the same area as the circle's
        draw.rectangle([x - half, y - half, x + half, y + half], fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + 0.85 * r), (x + r, y + 0.85 * r)], fill=color)
    else:
        arm = 0.38 * r
        draw.rectangle([x - r, y - arm, x + r, y + arm], fill=color)
        draw.rectangle([x - arm, y - r, x + arm, y + r], fill=color)


def jitter_color(rng: random.Random, name: str) -> Color:
    """A colour near the named one."""
    return tuple(int(min(255, max(0, v + rng.uniform(-12, 12)))) for v in COLORS[name])


def downsample(canvas: Image.Image) -> np.ndarray:
    """The drawn picture at its final size, uint8 (64, 64, 3)."""
    return np.asarray(canvas.resize((SIZE, SIZE), Image.Resampling.BOX))
