"""Which pictures are nearly the same, by what is left of them at 16 x 16."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

LOOK = 16  # pixels of either side that are compared
# Of the fainter of two pictures' own contrast: a drawing in another size or colour tone is above, one that was
# saved twice or touched up is below.
NEAR = 0.25
FLAT = 4.0  # root mean squared difference, in grey values, that is near whatever the contrast
ROWS = 512  # pictures compared with all others at once


def looks(images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """Pictures, uint8 (128, 128, 3) each, as float32 (pictures, 16 * 16 * 3) of mean grey values."""
    cell = images[0].shape[0] // LOOK if len(images) else 1
    small = [i.reshape(LOOK, cell, LOOK, cell, 3).mean((1, 3), dtype=np.float32).ravel() for i in images]
    return np.stack(small) if small else np.zeros((0, LOOK * LOOK * 3), np.float32)


def near_pairs(images: Sequence[np.ndarray] | np.ndarray) -> list[tuple[int, int, float]]:
    """Pairs (i, j, difference) with i < j of pictures that are nearly the same.

    The difference is a root mean square over the 16 x 16 looks, as a share of the fainter picture's contrast.
    """
    seen = looks(images)
    contrast = np.maximum((seen - seen.mean(1, keepdims=True)).std(1), FLAT / NEAR)
    norm = (seen**2).mean(1)
    pairs = []
    for start in tqdm(range(0, len(seen), ROWS), desc="near duplicates", disable=len(seen) < 4 * ROWS):
        rows = slice(start, start + ROWS)
        squared = norm[rows, None] + norm[None] - 2 / seen.shape[1] * seen[rows] @ seen.T
        share = np.sqrt(np.maximum(squared, 0)) / np.minimum(contrast[rows, None], contrast[None])
        for a, b in np.argwhere(share < NEAR):
            if start + a < b:
                pairs.append((int(start + a), int(b), float(share[a, b])))
    return pairs


def near_ones(pairs: Sequence[tuple[int, int, float]], count: int) -> list[set[int]]:
    """Of each of `count` pictures the numbers of those that are nearly the same."""
    near: list[set[int]] = [set() for _ in range(count)]
    for a, b, _ in pairs:
        near[a].add(b)
        near[b].add(a)
    return near
