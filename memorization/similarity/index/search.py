"""The most similar pictures of an index, exactly, block by block: memory does not grow with the index."""

import numpy as np
import torch
from tqdm import tqdm

from memorization.similarity.index.split import Similarity, dot
from memorization.similarity.index.stored import StoredIndex

QUERIES = 1024  # that are compared with a block at once


def most_similar(
    index: StoredIndex,
    queries: np.ndarray,
    k: int,
    similarity: Similarity = dot,
    left_out: np.ndarray | None = None,
    device: str | torch.device = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar pictures of each query, the most similar first.

    Args:
        queries: descriptors, float32 (queries, dim).
        k: at most as many as there are pictures to compare with.
        left_out: a row of the index that each query is not compared with, its own, (queries,).

    Returns:
        Similarities, float32 (queries, k), and rows, int64 (queries, k). Pictures without a descriptor are never among
        them, so that where there are too few others the last similarities are -infinity.
    """
    asked = torch.from_numpy(np.ascontiguousarray(queries, np.float32)).to(device)
    own = None if left_out is None else torch.as_tensor(np.asarray(left_out), dtype=torch.long, device=device)
    values = torch.full((len(asked), k), -torch.inf, device=device)
    rows = torch.zeros((len(asked), k), dtype=torch.long, device=device)
    with tqdm(total=index.num_rows, desc="search", unit="picture", leave=False) as bar:
        for start, part in index.blocks():
            block = torch.from_numpy(part).to(device)
            for first in range(0, len(asked), QUERIES):
                some = slice(first, first + QUERIES)
                found = similarity(asked[some], block).nan_to_num_(nan=-torch.inf)
                if own is not None:
                    leave_out(found, own[some] - start)
                values[some], rows[some] = better(values[some], rows[some], found, start)
            bar.update(len(block))
    return values.cpu().numpy(), rows.cpu().numpy()


def leave_out(found: torch.Tensor, places: torch.Tensor) -> None:
    """Put -infinity at one column of each line, where there is such a column."""
    lines = torch.nonzero((places >= 0) & (places < found.shape[1]))[:, 0]
    found[lines, places[lines]] = -torch.inf


def better(
    values: torch.Tensor, rows: torch.Tensor, found: torch.Tensor, start: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best so far, (n, k) each, with the best of a block, (n, rows of the block from `start` on), among them."""
    k = values.shape[1]
    best, places = found.topk(min(k, found.shape[1]), dim=1)
    values, order = torch.cat([values, best], 1).topk(k, dim=1)
    return values, torch.cat([rows, places + start], 1).gather(1, order)


def to_nearest_other(
    index: StoredIndex, rows: np.ndarray, similarity: Similarity = dot, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Similarity of some pictures of an index to the most similar other one, (rows,), and the row of that, (rows,)."""
    values, nearest = most_similar(index, index.descriptors(rows), 1, similarity, rows, device)
    return values[:, 0], nearest[:, 0]
