"""How a folder's pictures are laid out: whole, cut a little, or in a box of a coloured ground with bits of others."""

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from planted.making.drawn.words import COLORS, Color
from planted.making.size import SIZE

# Where the picture is on a coloured ground, as (left, top, right, bottom) shares; all around it is free.
BOXES = ((0, 0, 0.6, 1), (0.4, 0, 1, 1), (0, 0, 1, 0.6), (0, 0.4, 1, 1), (0.14, 0.14, 0.86, 0.86), (0.3, 0, 1, 0.7))
NUM_BITS = 3  # of other pictures, in the free region
BIT_SIZES = (20, 40)  # pixels
SMALLEST_CUT = 0.8  # share of a picture's side that a cut keeps


def box_of(number: int) -> tuple[int, int, int, int]:
    """A box in pixels: left, top, right, bottom."""
    left, top, right, bottom = (round(v * SIZE) for v in BOXES[number % len(BOXES)])
    return left, top, right, bottom


def box_mask(box: tuple[int, int, int, int]) -> np.ndarray:
    """bool (128, 128), True within the box."""
    left, top, right, bottom = box
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top:bottom, left:right] = True
    return mask


def cut(rng: random.Random, image: np.ndarray) -> np.ndarray:
    """A picture cut a little at its sides, mirrored half of the time: never the same twice."""
    side = round(SIZE * rng.uniform(SMALLEST_CUT, 1))
    x, y = rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)
    seen = Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR, (x, y, x + side, y + side))
    return np.asarray(ImageOps.mirror(seen) if rng.random() < 0.5 else seen)


def on_ground(
    rng: random.Random,
    image: np.ndarray,
    box: tuple[int, int, int, int],
    color: str,
    others: Sequence[np.ndarray],
) -> np.ndarray:
    """The middle of a picture in a box, and around it a ground of the colour with bits of other pictures."""
    canvas = Image.new("RGB", (SIZE, SIZE), jittered(rng, COLORS[color]))
    for _ in range(NUM_BITS):
        side = rng.randint(*BIT_SIZES)
        bit = Image.fromarray(rng.choice(others)).resize((side, side), Image.Resampling.BOX)
        canvas.paste(bit, (rng.randint(0, SIZE - side), rng.randint(0, SIZE - side)))
    left, top, right, bottom = box
    canvas.paste(ImageOps.fit(Image.fromarray(image), (right - left, bottom - top)), (left, top))
    return np.asarray(canvas)


def jittered(rng: random.Random, color: Color) -> Color:
    """A colour near another."""
    return tuple(int(min(255, max(0, v + rng.uniform(-10, 10)))) for v in color)
