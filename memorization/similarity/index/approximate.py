"""An approximate index by faiss (`pip install -e ".[index]"`), for more pictures than exact search is worth.

Cells of similar pictures (IVF) whose descriptors are float16, or 64 bytes by product quantisation (PQ; Jegou et al.,
TPAMI 2011); the file stays on disk and is mapped into memory. What is found may lack some of the most similar pictures,
and what is found has its exact cosine but for rounding: PQ's codes do not give it, so that they find more pictures than
are asked for, which are compared again by the descriptors of the exact index.
"""

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from memorization.errors import InputError
from memorization.files.whole import replacing
from memorization.similarity.index.stored import StoredIndex

FILE = "approximate.faiss"
FEWEST = 1_000_000  # pictures below which exact search is used
CELLS_PER_ROOT = 4  # cells are so many times the root of the number of pictures, as faiss advises
SAMPLE = 64  # descriptors for each cell that the cells are found with
PROBED = 32  # cells that are searched for a query
MOST_CODES = 64  # bytes of a picture by PQ
CANDIDATES = 8  # found by PQ for each picture that is asked for
QUERIES = 128  # compared again at a time, so that memory is flat


def load_faiss() -> Any:
    """
    Raises:
        InputError: if the package is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise InputError('--faiss needs the package faiss; pip install "memorization[index]", or faiss-cpu') from error
    return faiss


def make_approximate(index: StoredIndex, fewest: int = FEWEST, quantised: bool = False) -> Path | None:
    """Write the approximate index beside the exact one; None of a set that is small enough for exact search.

    Args:
        quantised: by PQ, a sixteenth of float16 at 512 numbers; slower to make, and it finds less.

    Raises:
        InputError: if faiss is not installed.
    """
    faiss = load_faiss()
    readable = index.readable_rows()
    if len(readable) < fewest:
        return None
    cells = max(1, round(CELLS_PER_ROOT * len(readable) ** 0.5))
    sample = np.random.default_rng(0).choice(readable, min(len(readable), SAMPLE * cells), replace=False)
    codes = f"PQ{num_codes(index.dim)}" if quantised else "SQfp16"
    made = faiss.index_factory(index.dim, f"IVF{cells},{codes}", faiss.METRIC_INNER_PRODUCT)
    made.train(index.descriptors(np.sort(sample)))
    with tqdm(total=index.num_rows, desc="faiss", unit="picture") as bar:
        for start, block in index.blocks():
            good = np.flatnonzero(np.isfinite(block[:, 0]))
            made.add_with_ids(block[good], start + good)
            bar.update(len(block))
    with replacing(index.folder / FILE) as temporary:
        faiss.write_index(made, str(temporary))
    return index.folder / FILE


def num_codes(dim: int) -> int:
    """Of a descriptor of so many numbers: as many as divide them."""
    return next(count for count in range(min(MOST_CODES, dim), 0, -1) if dim % count == 0)


def search_approximate(index: StoredIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `most_similar` by cosine, nearly.

    Raises:
        InputError: if faiss is not installed, or the approximate index was not made.
    """
    faiss = load_faiss()
    path = index.folder / FILE
    if not path.is_file():
        raise InputError(f"{path} is not there; make it by tools/index_training_set.py --faiss")
    found = faiss.read_index(str(path), faiss.IO_FLAG_MMAP)
    cells = faiss.extract_index_ivf(found)
    cells.nprobe = PROBED
    asked = np.ascontiguousarray(queries, np.float32)
    if not isinstance(faiss.downcast_index(cells), faiss.IndexIVFPQ):
        values, rows = found.search(asked, k)
        return np.where(rows < 0, -np.inf, values).astype(np.float32), np.maximum(rows, 0)
    _, rows = found.search(asked, min(CANDIDATES * k, found.ntotal))
    some = [slice(first, first + QUERIES) for first in range(0, len(asked), QUERIES)]
    values, rows = zip(*(compared_again(index, asked[part], rows[part], k) for part in some), strict=True)
    return np.concatenate(values), np.concatenate(rows)


def compared_again(index: StoredIndex, queries: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k most similar out of some rows (queries, candidates), -1 being none, by the exact index's descriptors."""
    descriptors = index.descriptors(np.maximum(rows, 0).ravel()).reshape(*rows.shape, -1)
    values = np.where(rows < 0, -np.inf, np.einsum("qd,qcd->qc", queries, descriptors)).astype(np.float32)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(values, order, 1), np.maximum(np.take_along_axis(rows, order, 1), 0)
