"""An approximate index by faiss (`pip install -e ".[index]"`), for more pictures than exact search is worth.

Cells of similar pictures (IVF) whose descriptors are float16; the file stays on disk and is mapped into memory. What
is found may lack some of the most similar pictures, and what is found has its exact cosine but for rounding.
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


def make_approximate(index: StoredIndex, fewest: int = FEWEST) -> Path | None:
    """Write the approximate index beside the exact one; None of a set that is small enough for exact search.

    Raises:
        InputError: if faiss is not installed.
    """
    faiss = load_faiss()
    readable = index.readable_rows()
    if len(readable) < fewest:
        return None
    cells = max(1, round(CELLS_PER_ROOT * len(readable) ** 0.5))
    sample = np.random.default_rng(0).choice(readable, min(len(readable), SAMPLE * cells), replace=False)
    made = faiss.index_factory(index.dim, f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    made.train(index.descriptors(np.sort(sample)))
    with tqdm(total=index.num_rows, desc="faiss", unit="picture") as bar:
        for start, block in index.blocks():
            good = np.flatnonzero(np.isfinite(block[:, 0]))
            made.add_with_ids(block[good], start + good)
            bar.update(len(block))
    with replacing(index.folder / FILE) as temporary:
        faiss.write_index(made, str(temporary))
    return index.folder / FILE


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
    faiss.extract_index_ivf(found).nprobe = PROBED
    values, rows = found.search(np.ascontiguousarray(queries, np.float32), k)
    return np.where(rows < 0, -np.inf, values).astype(np.float32), np.maximum(rows, 0)
