"""D per step as a drawing that takes its colours from the page: the curve, and the controls' band behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 40, 8, 10, 34  # margins
TICKS = 4


@dataclass(frozen=True)
class Curve:
    """What the template draws, in the drawing's own units.

    Attributes:
        line: points of the curve; of one step alone, its dot is `last`.
        band, middle: outline of the controls' range and their median; empty without controls.
        across, up: ticks, (place, text) each.
    """

    line: str
    last: tuple[float, float] | None
    band: str
    middle: str
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def draw_curve(values: Sequence[float], num_steps: int, controls: np.ndarray | None) -> Curve:
    """
    Args:
        values: D of every step so far.
        num_steps: of the whole generation.
        controls: D of ordinary captions, (controls, steps); None without.
    """
    highest = max([*values, *([] if controls is None else [float(controls.max())]), 1e-6]) * 1.05
    places = LEFT + (np.arange(num_steps) + 0.5) / num_steps * (WIDTH - LEFT - RIGHT)

    def points(heights: Sequence[float] | np.ndarray) -> list[tuple[float, float]]:
        ys = HEIGHT - BOTTOM - np.asarray(heights, float) / highest * (HEIGHT - BOTTOM - TOP)
        return [(round(float(x), 1), round(float(y), 1)) for x, y in zip(places, ys, strict=False)]

    band, middle = "", ""
    if controls is not None:
        low, high = points(controls.min(0)), points(controls.max(0))
        band, middle = text_of([*low, *reversed(high)]), text_of(points(np.median(controls, 0)))
    own = points(values)
    heights = np.linspace(0, highest / 1.05, TICKS + 1)
    shown = sorted({round(k) for k in np.linspace(1, num_steps, TICKS + 1).tolist()})
    return Curve(
        line=text_of(own),
        last=own[-1] if own else None,
        band=band,
        middle=middle,
        across=[(round(float(places[k - 1]), 1), str(k)) for k in shown],
        up=[(HEIGHT - BOTTOM - h / highest * (HEIGHT - BOTTOM - TOP), f"{h:.3g}") for h in heights.tolist()],
    )


def text_of(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in points)
