"""Near-duplicates within an index, as groups of pictures that are connected by similar pairs."""

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from memorization.similarity.index.stored import StoredIndex


def similar_groups(index: StoredIndex, threshold: float, device: str | torch.device = "cpu") -> list[np.ndarray]:
    """Groups of two or more pictures, rows (pictures,) each, the largest group first.

    Every pair is compared, one block with another, so time grows with the square of the pictures and memory with their
    number alone. Two pictures of a group need not be similar themselves: a chain of similar ones connects them.

    Args:
        threshold: cosine from which two pictures are near-duplicates.
    """
    labels = np.arange(index.num_rows)
    with tqdm(total=index.num_rows, desc="duplicates", unit="picture") as bar:
        for start, part in index.blocks():
            block = torch.from_numpy(part).to(device)
            for other, columns in index.blocks():
                if other > start:
                    break
                near = block @ torch.from_numpy(columns).to(device).T >= threshold  # NaN is not
                pairs = near.nonzero().cpu().numpy() + (start, other)
                labels = joined(labels, pairs)
            bar.update(len(block))
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return sorted((g for g in groups if len(g) > 1), key=lambda g: (-len(g), g[0]))


def joined(labels: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Labels of connected pictures, (pictures,), with further pairs (pairs, 2) connected."""
    a, b = labels[pairs[:, 0]], labels[pairs[:, 1]]
    new = a != b
    if not new.any():
        return labels
    edges = np.unique(np.stack([a[new], b[new]], 1), axis=0)
    size = len(labels)
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), (size, size))
    return connected_components(graph, directed=False)[1][labels]
