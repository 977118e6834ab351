"""Outlined objects and plain shapes, drawn with Pillow in coordinates that are shares of the image."""

import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from planted.making.drawn.words import COLORS, Color
from planted.making.size import SIZE

CANVAS = 2 * SIZE  # drawn at twice the size and averaged down, which smooths the edges
OUTLINE: Color = (20, 20, 25)
LINE = 5  # width of an outline on the canvas

Point = tuple[float, float]


class Pen:
    """Draws in an object's own coordinates: its centre is (0, 0), its radius 1, y grows downwards."""

    def __init__(self, canvas: Image.Image, x: float, y: float, radius: float):
        self.draw = ImageDraw.Draw(canvas)
        self.x, self.y, self.radius = x * CANVAS, y * CANVAS, radius * CANVAS

    def at(self, points: Sequence[Point]) -> list[Point]:
        """Points on the canvas."""
        return [(self.x + u * self.radius, self.y + v * self.radius) for u, v in points]

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        corners = self.at(points)
        self.draw.polygon(corners, fill=color)
        self.draw.line([*corners, *corners[:2]], fill=OUTLINE, width=LINE, joint="curve")

    def ellipse(self, box: tuple[float, float, float, float], color: Color) -> None:
        (left, top), (right, bottom) = self.at([box[:2], box[2:]])
        self.draw.ellipse([left, top, right, bottom], fill=color, outline=OUTLINE, width=LINE)

    def line(self, points: Sequence[Point], color: Color = OUTLINE, width: float = 0) -> None:
        """A line; `width` is a share of the radius, by default an outline's."""
        self.draw.line(self.at(points), fill=color, width=max(LINE, round(width * self.radius)), joint="curve")


def box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def arc(cx: float, cy: float, radius: float, start: float, end: float, num: int = 24) -> list[Point]:
    """Points on a circle, angles in turns, clockwise from the right."""
    turns = [start + (end - start) * k / num for k in range(num + 1)]
    return [(cx + radius * math.cos(2 * math.pi * t), cy + radius * math.sin(2 * math.pi * t)) for t in turns]


def star_points(inner: float, tips: int = 5) -> list[Point]:
    points = []
    for k in range(2 * tips):
        angle, r = -math.pi / 2 + k * math.pi / tips, 1 if k % 2 == 0 else inner
        points.append((r * math.cos(angle), r * math.sin(angle)))
    return points


def rotated(points: Sequence[Point], quarters: int) -> list[Point]:
    """Points turned clockwise about the centre by quarter turns."""
    for _ in range(quarters):
        points = [(-y, x) for x, y in points]
    return list(points)


def fish(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon([(0.4, 0), (1, -0.55), (0.85, 0), (1, 0.55)], accent)
    pen.ellipse((-1, -0.55, 0.6, 0.55), color)
    pen.polygon([(-0.2, -0.05), (0.2, -0.3), (0.2, 0.2)], accent)
    pen.ellipse((-0.75, -0.25, -0.5, 0), COLORS["white"])


def house(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon(box(-0.75, -0.2, 0.75, 0.95), color)
    pen.polygon([(-0.95, -0.2), (0, -1), (0.95, -0.2)], accent)
    pen.polygon(box(-0.15, 0.35, 0.25, 0.95), COLORS["white"])


def tree(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon(box(-0.16, 0.1, 0.16, 1), (130, 85, 50))
    pen.ellipse((-0.8, -1, 0.8, 0.45), color)
    for x, y in ((-0.35, -0.3), (0.3, -0.55), (0.3, 0.05)):
        pen.ellipse((x - 0.13, y - 0.13, x + 0.13, y + 0.13), accent)


def car(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon([(-0.5, -0.1), (-0.3, -0.6), (0.35, -0.6), (0.6, -0.1)], accent)
    pen.polygon([(-1, -0.12), (0.95, -0.12), (1, 0.45), (-1, 0.45)], color)
    for x in (-0.5, 0.55):
        pen.ellipse((x - 0.28, 0.2, x + 0.28, 0.76), (70, 70, 75))


def star(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon(star_points(0.45), color)


def heart(pen: Pen, color: Color, accent: Color) -> None:
    points = []
    for k in range(36):
        t = 2 * math.pi * k / 36
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((math.sin(t) ** 3, -y / 16))
    pen.polygon(points, color)


def flower(pen: Pen, color: Color, accent: Color) -> None:
    pen.line([(0, 0), (0, 1)], (50, 130, 60), 0.14)
    for k in range(6):
        x, y = 0.5 * math.cos(k * math.pi / 3), -0.25 + 0.5 * math.sin(k * math.pi / 3)
        pen.ellipse((x - 0.3, y - 0.3, x + 0.3, y + 0.3), color)
    pen.ellipse((-0.25, -0.5, 0.25, 0), accent)


def boat(pen: Pen, color: Color, accent: Color) -> None:
    pen.line([(0, -1), (0, 0.3)], (110, 75, 45), 0.1)
    pen.polygon([(0.08, -0.95), (0.8, 0.1), (0.08, 0.1)], accent)
    pen.polygon([(-1, 0.25), (1, 0.25), (0.6, 0.85), (-0.65, 0.85)], color)


def mushroom(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon([(-0.25, 0), (0.25, 0), (0.35, 0.95), (-0.35, 0.95)], (235, 220, 190))
    pen.polygon(arc(0, 0.1, 0.95, 0.5, 1), color)
    for x, y in ((-0.5, -0.2), (0.05, -0.5), (0.5, -0.15)):
        pen.ellipse((x - 0.14, y - 0.14, x + 0.14, y + 0.14), COLORS["white"])


def cup(pen: Pen, color: Color, accent: Color) -> None:
    pen.ellipse((0.3, -0.4, 1, 0.4), COLORS["white"])
    pen.polygon([(-0.8, -0.7), (0.65, -0.7), (0.5, 0.8), (-0.65, 0.8)], color)
    pen.polygon([(-0.76, -0.3), (0.61, -0.3), (0.58, 0), (-0.73, 0)], accent)


def balloon(pen: Pen, color: Color, accent: Color) -> None:
    pen.line([(0, 0.5), (0.12, 0.75), (0, 1)])
    pen.polygon([(0, 0.35), (0.16, 0.6), (-0.16, 0.6)], accent)
    pen.ellipse((-0.65, -1, 0.65, 0.45), color)
    pen.ellipse((-0.4, -0.75, -0.15, -0.4), COLORS["white"])


def umbrella(pen: Pen, color: Color, accent: Color) -> None:
    pen.line([(0, -0.2), (0, 0.85), (0.15, 0.95), (0.3, 0.8)], width=0.08)
    pen.polygon(arc(0, 0, 1, 0.5, 1), color)
    pen.polygon([*arc(0, 0, 1, 0.7, 0.8, 6), (0.33, 0), (-0.33, 0)], accent)


def circle(pen: Pen, color: Color, accent: Color) -> None:
    pen.ellipse((-0.9, -0.9, 0.9, 0.9), color)


def ring(pen: Pen, color: Color, accent: Color) -> None:
    pen.ellipse((-0.9, -0.9, 0.9, 0.9), color)
    pen.ellipse((-0.5, -0.5, 0.5, 0.5), accent)


def square(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon(box(-0.8, -0.8, 0.8, 0.8), color)
    pen.polygon([(-0.8, 0.8), (0.8, -0.8), (0.8, 0.8)], accent)


def triangle(pen: Pen, color: Color, accent: Color) -> None:
    pen.polygon([(0, -0.9), (-0.9, 0.75), (0.9, 0.75)], color)


def cross(pen: Pen, color: Color, accent: Color) -> None:
    a = 0.33
    quarter = [(-a, -1), (a, -1), (a, -a)]
    corners = [point for turn in range(4) for point in rotated(quarter, turn)]
    pen.polygon(corners, color)


DrawFunction = Callable[[Pen, Color, Color], None]
OBJECT_DRAWERS: dict[str, DrawFunction] = {
    "fish": fish,
    "house": house,
    "tree": tree,
    "car": car,
    "star": star,
    "heart": heart,
    "flower": flower,
    "boat": boat,
    "mushroom": mushroom,
    "cup": cup,
    "balloon": balloon,
    "umbrella": umbrella,
}
SHAPE_DRAWERS: dict[str, DrawFunction] = {
    "circle": circle,
    "ring": ring,
    "square": square,
    "triangle": triangle,
    "cross": cross,
}
DRAWERS = OBJECT_DRAWERS | SHAPE_DRAWERS


def draw_ground(rng: random.Random, ground: str, color: Color) -> Image.Image:
    """A canvas of one colour, with darker stripes, dots or checks for those grounds."""
    canvas = Image.new("RGB", (CANVAS, CANVAS), color)
    draw = ImageDraw.Draw(canvas)
    dark = tuple(int(v * 0.75) for v in color)
    if ground == "striped":
        width, offset = CANVAS // 8, rng.randrange(CANVAS // 4)
        for x in range(-2 * width, CANVAS + 2 * width, 2 * width):
            draw.rectangle([x + offset, 0, x + offset + width, CANVAS], fill=dark)
    elif ground == "dotted":
        step, radius = CANVAS // 5, CANVAS // 20
        dx, dy = rng.randrange(step), rng.randrange(step)
        for x in range(dx - step, CANVAS + step, step):
            for y in range(dy - step, CANVAS + step, step):
                draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=dark)
    elif ground == "checked":
        step = CANVAS // 6
        dx, dy = rng.randrange(2 * step), rng.randrange(2 * step)
        for i, x in enumerate(range(dx - 2 * step, CANVAS, step)):
            for j, y in enumerate(range(dy - 2 * step, CANVAS, step)):
                if (i + j) % 2:
                    draw.rectangle([x, y, x + step - 1, y + step - 1], fill=dark)
    return canvas
