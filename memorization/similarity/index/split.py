"""Similarities of descriptors: as wholes, and cut into chunks, of which the most alike count.

Somepalli et al. (CVPR 2023) cut features into chunks, so that a copied object is found where the rest of the picture
is another. Of patch features a chunk is a patch. Chunks are compared by their dot product as they are: of unit
descriptors cut into c equal chunks the largest possible value is 1 and two equal pictures have 1 / c or more, so that
numbers of different similarities, or of other c, do not compare.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch

Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # (n, dim) and (m, dim) to (n, m); higher = alike

DOT, SPLIT, SPLIT_CROSS = "dot", "splitloss", "splitlosscross"
KINDS = (DOT, SPLIT, SPLIT_CROSS)


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Dot products of all pairs, (n, m), of (n, dim) and (m, dim); of unit descriptors their cosines."""
    return a @ b.T


def split(a: torch.Tensor, b: torch.Tensor, chunks: int) -> torch.Tensor:
    """Largest dot product over chunks at the same place, (n, m), of (n, dim) and (m, dim).

    Raises:
        ValueError: if dim is no multiple of the number of chunks.
    """
    pairs = zip(cut(a, chunks), cut(b, chunks), strict=True)
    return largest_of(x @ y.T for x, y in pairs)


def split_cross(a: torch.Tensor, b: torch.Tensor, chunks: int) -> torch.Tensor:
    """Largest dot product over all pairs of a chunk of one and a chunk of the other, (n, m); as `split` else."""
    return largest_of(x @ y.T for x in cut(a, chunks) for y in cut(b, chunks))


def cut(features: torch.Tensor, chunks: int) -> torch.Tensor:
    """Features (n, dim) as (chunks, n, dim / chunks)."""
    if chunks < 1 or features.shape[1] % chunks:
        raise ValueError(f"descriptors of {features.shape[1]} numbers cannot be cut into {chunks} equal chunks")
    return features.unflatten(1, (chunks, -1)).transpose(0, 1)


def largest_of(products: Iterator[torch.Tensor]) -> torch.Tensor:
    """Elementwise maximum of matrices that are made one by one."""
    found = next(products)
    for product in products:
        found = torch.maximum(found, product)
    return found


def similarity_called(kind: str, chunks: int, dim: int) -> Similarity:
    """The similarity of a name.

    Raises:
        ValueError: for an unknown name, or a number of chunks that dim cannot be cut into.
    """
    if kind not in KINDS:
        raise ValueError(f"similarity {kind!r} is none of {', '.join(KINDS)}")
    if kind == DOT:
        return dot
    cut(torch.empty(0, dim), chunks)
    return partial(split if kind == SPLIT else split_cross, chunks=chunks)
