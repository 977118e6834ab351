"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019) of sets of unit descriptors, picture by picture.

A set covers the balls around its pictures that reach to the third most similar other one of each. Distances of unit
vectors go with their cosines, so that a ball is everything from a cosine on.
"""

from collections.abc import Iterator

import numpy as np

NEIGHBOURS = 3  # of its own set that the ball of a picture reaches to, as the paper has it
ROWS = 1024  # of the matrix of cosines that are in memory at once


def ball_edges(descriptors: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """The cosine from which something lies in the ball of each picture, (pictures,).

    Args:
        descriptors: unit vectors, (pictures, dim), of more pictures than `neighbours`.

    Raises:
        ValueError: if there are too few.
    """
    if len(descriptors) <= neighbours:
        raise ValueError(f"{len(descriptors)} pictures have no {neighbours} others each")
    found = []
    for first, cosines in cosine_rows(descriptors, descriptors):
        own = np.arange(len(cosines))
        cosines[own, first + own] = -np.inf
        found.append(np.partition(cosines, -neighbours, axis=1)[:, -neighbours])
    return np.concatenate(found)


def are_covered(descriptors: np.ndarray, others: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Whether each picture lies in a ball of another set, bool (pictures,).

    Of generations beside training pictures the share is precision, of training pictures beside generations recall.

    Args:
        descriptors: (pictures, dim).
        others, edges: descriptors of the other set, (others, dim), and their `ball_edges`.
    """
    return np.concatenate([(cosines >= edges).any(1) for _, cosines in cosine_rows(descriptors, others)])


def cosine_rows(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The first row and rows of the matrix of cosines, part by part."""
    for first in range(0, len(a), ROWS):
        yield first, a[first : first + ROWS] @ b.T
