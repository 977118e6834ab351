"""Figures of attention: a tile for each token of a prompt, averaged over steps or as a strip over them."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from memorization.report.theme import grid, panels, show
from memorization.tiles import AttentionTiles

TILE = 1.25  # inches


def tiles_figure(tiles: AttentionTiles) -> Figure:
    """The image, then what each token looks at, averaged over the steps; each map in its own range.

    Under a token stands the share of all attention that it gets.
    """
    figure, axes = panels(len(tiles.tokens) + 1, TILE, TILE + 0.35)
    show(axes[0], tiles.image, "image")
    for axis, token, values in zip(axes[1:], tiles.tokens, tiles.mean(), strict=True):
        draw_tile(axis, tiles.image, values)
        axis.set_title(token, fontsize=7)
        axis.set_xlabel(share_text(tiles, values), fontsize=6)
    return figure


def strip_figure(tiles: AttentionTiles) -> Figure:
    """A row for each step, a column for each token; a token's maps in one range over all steps."""
    figure, axes = grid(len(tiles.steps), len(tiles.tokens) + 1, TILE, TILE + 0.1)
    for line, step, maps in zip(axes, tiles.steps, tiles.maps, strict=True):
        show(line[0], tiles.image)
        line[0].set_ylabel(f"step {step + 1}", fontsize=7)
        for axis, values, most in zip(line[1:], maps, tiles.maps.max((0, 2, 3)), strict=True):
            draw_tile(axis, tiles.image, values, float(most))
    for axis, title in zip(axes[0], ("image", *tiles.tokens), strict=True):
        axis.set_title(title, fontsize=7)
    return figure


def draw_tile(axis: Axes, image: np.ndarray, values: np.ndarray, most: float | None = None) -> None:
    """A map as heat over the grey image."""
    height, width = image.shape[:2]
    place = (0, width, height, 0)
    axis.imshow(image.mean(2), cmap="gray", extent=place, alpha=0.4)
    axis.imshow(values, cmap="inferno", vmin=0, vmax=most or float(values.max()), extent=place, alpha=0.75)
    axis.grid(False)
    axis.set(xticks=[], yticks=[])


def share_text(tiles: AttentionTiles, values: np.ndarray) -> str:
    """The share of the attention that a token gets; components have none."""
    return "" if tiles.tokens[0].startswith("component") else f"{values.mean():.1%}"
