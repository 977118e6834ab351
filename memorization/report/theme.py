"""How figures look: colours, markers, panels, on a light ground or a dark one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Six of Okabe and Ito's and three of Tol's colours, which people with colour blindness can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933", "#44AA99")
MARKERS = "sD^vPX*h<"
LINES = ("-", "--", ":")
PANELS = 6  # in a row
GROUND, TEXT, EDGE, TICKS = "#15181c", "#e4e6e8", "#9aa0a6", "#c6cacd"
DARK: dict[Any, Any] = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": EDGE,
    "xtick.color": TICKS,
    "ytick.color": TICKS,
    "grid.color": "#3a3f45",
    "legend.facecolor": GROUND,
    "legend.edgecolor": "#3a3f45",
}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8,
    "axes.prop_cycle": cycler(color=COLORS),
}


@contextmanager
def theme(dark: bool = False) -> Iterator[None]:
    """Draw in our style, on a dark ground if asked."""
    with plt.rc_context(STYLE | DARK if dark else STYLE):
        yield


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    """A figure of equal panels and its axes, an array (rows, columns)."""
    return plt.subplots(rows, columns, figsize=(width * columns, height * rows), layout="constrained", squeeze=False)


def panels(count: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of so many equal panels, at most `PANELS` in a row."""
    columns = min(PANELS, count)
    figure, axes = grid(-(-count // columns), columns, width, height)
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:count])


def legend_below(figure: Figure, axis: Axes) -> None:
    """One legend for all panels, under them, where it hides nothing."""
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=5)


def line_style(k: int) -> dict[str, str]:
    """Colour and line of the k-th curve: when the colours are used up, they come again with other lines."""
    return {"color": COLORS[k % len(COLORS)], "linestyle": LINES[k // len(COLORS) % len(LINES)]}


def show(axis: Axes, image: np.ndarray, title: str | None = None) -> None:
    """An image without ticks."""
    axis.imshow(image)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])
    if title:
        axis.set_title(title, fontsize=8)


def overlay(
    axis: Axes,
    image: np.ndarray,
    values: np.ndarray,
    truth: np.ndarray | None = None,
    brightest: float | None = None,
) -> None:
    """A map as heat over the grey image, up to `brightest` or in its own range; the true mask's border in white.

    Args:
        image: uint8 (height, width, 3).
        values: map of any size, (h, w).
        truth: true mask, bool (h, w).
    """
    height, width = image.shape[:2]
    show(axis, np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8))
    limits: dict[str, Any] = {} if brightest is None else {"vmin": 0, "vmax": brightest}
    values = np.asarray(values, np.float32)
    axis.imshow(values, **limits, cmap="inferno", alpha=0.7, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    if truth is not None and not truth.all():
        places = (np.linspace(0, width - 1, truth.shape[1]), np.linspace(0, height - 1, truth.shape[0]))
        axis.contour(*places, truth.astype(float), levels=[0.5], colors="white", linewidths=1.5)
