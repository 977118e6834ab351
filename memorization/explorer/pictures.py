"""Arrays as pictures that a page holds itself: PNG in data URIs, nothing on disk."""

import io

import matplotlib
import numpy as np
from PIL import Image

from memorization.report.page import data_uri

MAP_SIDE = 64  # pixels that a map is enlarged to at least, so that it is smooth


def uri(image: np.ndarray) -> str:
    """A picture, uint8 (height, width, 3 or 4), as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return data_uri(buffer.getvalue())


def grey(image: np.ndarray) -> np.ndarray:
    """A picture without its colours, uint8 (height, width, 3)."""
    return np.repeat(image.mean(2, keepdims=True), 3, 2).astype(np.uint8)


def heat(values: np.ndarray, most: float | None = None) -> np.ndarray:
    """A map (h, w) in colours from black to bright, uint8 (height, width, 3).

    Args:
        most: what is brightest; by default the map's largest.
    """
    top = float(values.max()) if most is None else most
    scaled = np.asarray(values, np.float32) / max(top, 1e-12)
    factor = max(1, -(-MAP_SIDE // scaled.shape[0]))
    size = (scaled.shape[1] * factor, scaled.shape[0] * factor)
    smooth = Image.fromarray(scaled).resize(size, Image.Resampling.BILINEAR)
    colours = matplotlib.colormaps["inferno"](np.clip(np.asarray(smooth), 0, 1))[..., :3]
    return (colours * 255).round().astype(np.uint8)
