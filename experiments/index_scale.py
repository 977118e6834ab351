"""Time and memory of an index of a training set, measured on made-up descriptors, and what larger sets come to.

    python -m experiments.index_scale                          100,000 descriptors, a minute
    python -m experiments.index_scale --pictures 1000000 --faiss    3 GB of disk for the time of the measurement

An index of random unit descriptors is written, and the ten most similar of 1,000 queries are searched in a process of
its own, whose peak memory is measured; the same ten are found by numpy out of all descriptors at once. With --faiss
approximate indices are made of it, and searched for the same. Pictures of noise are described by a network of SSCD's
shape (ResNet-50, 512 numbers) with random weights. Times are of CPU cores, which other work on the machine does not
change much. Numbers go to experiments/results/index_scale.json, a line per number of pictures; `python -m
tools.write_docs` pastes them.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from memorization.bundled import ROOT
from memorization.files.whole import write_text
from memorization.runs.arguments import HelpFormatter, positive_int
from memorization.similarity.index.approximate import make_approximate, search_approximate
from memorization.similarity.index.search import most_similar
from memorization.similarity.index.stored import StoredIndex, read_header, write_header
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "index_scale.json"
DIM, SHARD_SIZE, QUERIES, NEIGHBOURS = 512, 4096, 1000, 10
DESCRIBED = 32  # pictures of noise
FOUND = "found.npy"  # what the search of the other process found
FAISS = ("float16", "PQ")
AT_ONCE = 50  # queries that numpy compares with everything
NOISE = 0.02  # of a query's numbers, which are about 0.04
SETS = ((100_000, 1), (1_000_000, 1), (10_000_000, 8), (400_000_000, 64))  # pictures and processes of the table


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--pictures", type=positive_int, default=100_000, help="descriptors that are made up")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    parser.add_argument("--faiss", action="store_true", help="approximate indices as well (package faiss)")
    parser.add_argument("--search", type=Path, help="of the script itself: search this index")
    args = parser.parse_args(argv)
    if args.search is not None:
        print(json.dumps(measure_search(read_header(args.search))))
        return
    line = measure(args.pictures, args.faiss)
    kept = json.loads(args.output.read_text()) if args.output.exists() else []
    others = [other for other in kept if other["pictures"] != args.pictures]
    write_text(args.output, json.dumps(sorted([*others, line], key=lambda r: r["pictures"]), indent=1) + "\n")
    print(json.dumps(line, indent=1))


def measure(pictures: int, with_faiss: bool) -> dict[str, Any]:
    """Time and memory of an index of so many pictures."""
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), pictures)
        command = [sys.executable, "-m", "experiments.index_scale", "--search", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        size = sum(index.descriptors_file(shard).stat().st_size for shard in range(index.num_shards))
        exact = brute_force(index, made_queries(index)[0])
        same = {"equal_to_brute_force": equal_share(np.load(Path(folder) / FOUND), exact)}
        approximate = {name: measure_faiss(index, exact, name == "PQ") for name in FAISS if with_faiss}
    threads = torch.get_num_threads()
    told = {"pictures": pictures, "dim": DIM, "queries": QUERIES, "threads": threads, "torch": torch.__version__}
    told |= {"bytes": size, "described_per_second": describing_rate(), "faiss": approximate}
    return told | same | json.loads(done.stdout)


def make_index(folder: Path, pictures: int) -> StoredIndex:
    """An index of random unit descriptors."""
    settings = {"descriptor": "random", "checkpoint": "none", "preprocessing": "none", "shard_size": SHARD_SIZE}
    header = {"settings": settings, "pictures": pictures, "dim": DIM, "unreadable": 0}
    index = write_header(folder, header)
    for shard, start in enumerate(range(0, pictures, SHARD_SIZE)):
        index.save(shard, unit_descriptors(shard, min(SHARD_SIZE, pictures - start)))
    return index


def unit_descriptors(seed: int, count: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def made_queries(index: StoredIndex) -> tuple[np.ndarray, np.ndarray]:
    """Descriptors of some pictures with noise, (queries, dim), and which pictures they are of."""
    rng = np.random.default_rng(index.num_rows)
    rows = rng.integers(0, index.num_rows, QUERIES)
    return index.descriptors(rows) + rng.normal(0, NOISE, (QUERIES, DIM)).astype(np.float32), rows


def brute_force(index: StoredIndex, queries: np.ndarray) -> np.ndarray:
    """The most similar pictures of each query, (queries, neighbours), by all their cosines at once."""
    every = index.descriptors(np.arange(index.num_rows))
    found = []
    for first in tqdm(range(0, len(queries), AT_ONCE), desc="brute force", unit="queries", unit_scale=AT_ONCE):
        values = queries[first : first + AT_ONCE] @ every.T
        best = np.argpartition(-values, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        order = np.argsort(-np.take_along_axis(values, best, 1), axis=1, kind="stable")
        found.append(np.take_along_axis(best, order, 1))
    return np.concatenate(found)


def equal_share(found: np.ndarray, exact: np.ndarray) -> float:
    """Of queries, those whose neighbours are the exact ones in their order."""
    return float((found == exact).all(1).mean())


def measure_faiss(index: StoredIndex, exact: np.ndarray, quantised: bool) -> dict[str, float]:
    """Seconds and bytes of an approximate index, and how many of the exact neighbours it finds."""
    queries, rows = made_queries(index)
    started = time.process_time()
    path = make_approximate(index, 1, quantised)
    making, started = time.process_time() - started, time.process_time()
    _, found = search_approximate(index, queries, NEIGHBOURS)
    searching = time.process_time() - started
    recall = np.mean([len(np.intersect1d(a, b)) / NEIGHBOURS for a, b in zip(found, exact, strict=True)])
    return {
        "making_seconds": making,
        "search_seconds": searching,
        "bytes": path.stat().st_size if path else 0,
        "found": float((found[:, 0] == rows).mean()),
        "recall": float(recall),
    }


def measure_search(index: StoredIndex) -> dict[str, float]:
    """Seconds and peak memory of a search, and the share of queries whose picture is found first; leaves what it found
    with the index."""
    queries, rows = made_queries(index)
    before, started = peak_bytes(), time.process_time()
    _, found = most_similar(index, queries, NEIGHBOURS)
    seconds = time.process_time() - started
    right, memory = float((found[:, 0] == rows).mean()), peak_bytes()
    np.save(index.folder / FOUND, found)
    return {"search_seconds": seconds, "before_bytes": before, "peak_bytes": memory, "found": right}


def peak_bytes() -> int:
    """The most memory that this process has held, its libraries among it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@torch.no_grad()
def describing_rate() -> float:
    """Pictures per second of one CPU core by a network of SSCD's shape."""
    from torchvision.models import resnet50

    model, batch = resnet50(num_classes=DIM).eval(), torch.rand(8, 3, 288, 288)
    model(batch)
    started = time.process_time()
    for _ in range(DESCRIBED // len(batch)):
        model(batch)
    return DESCRIBED / (time.process_time() - started)


def estimate(measured: Mapping[str, Any], pictures: int, processes: int) -> dict[str, float]:
    """What an index takes: hours of describing, gigabytes of disk, minutes of an exact search of `QUERIES` queries.

    A process has one CPU core. Describing is shared out over them, a search is not; both grow with the pictures.

    Args:
        measured: of `measure`.
    """
    return {
        "hours": pictures / measured["described_per_second"] / processes / 3600,
        "gigabytes": pictures * measured["bytes"] / measured["pictures"] / 1e9,
        "minutes": measured["search_seconds"] * pictures / measured["pictures"] / 60,
    }


def index_scale_table() -> str:
    """What was measured, and what it comes to for larger sets."""
    lines = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = [
        [f"{r['pictures']:,}", f"{r['search_seconds']:.1f}", f"{(r['peak_bytes'] - r['before_bytes']) / 2**20:.0f}"]
        + [f"{r['peak_bytes'] / 2**20:.0f}", f"{r['found']:.3f}", f"{r['equal_to_brute_force']:.3f}"]
        + [f"{r['described_per_second']:.1f}"]
        for r in lines
    ]
    headers = ["descriptors, measured", f"search of {QUERIES:,}, core s", "memory of it, MiB", "of the process, MiB"]
    largest, parts = lines[-1], []
    for pictures, processes in SETS:
        e = estimate(largest, pictures, processes)
        parts.append([f"{pictures:,}", processes, *(f"{e[name]:,.1f}" for name in ("hours", "gigabytes", "minutes"))])
    columns = ["pictures, computed", "processes", "describing, hours", "disk, GB", f"exact search of {QUERIES:,}, min"]
    version = largest["torch"].split("+")[0]
    note = f"Measured on the CPU, torch {version}; computed for processes of one core each, in proportion to "
    note += f"{largest['pictures']:,} descriptors, for a network of SSCD's shape; a GPU's rate is its own."
    found = ["right one first", f"all {NEIGHBOURS} as by brute force"]
    measured = format_table([*headers, *found, "described per core s"], rows)
    return "\n\n".join(filter(None, [measured, faiss_table(lines), format_table(columns, parts), note]))


def faiss_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Approximate indices of the same descriptors, where any was measured."""
    rows = [
        [f"{r['pictures']:,}", name, f"{f['making_seconds']:.0f}", f"{f['search_seconds']:.1f}"]
        + [f"{f['bytes'] / 1e9:.2f}", f"{f['found']:.3f}", f"{f['recall']:.3f}"]
        for r in lines
        for name, f in r["faiss"].items()
    ]
    headers = ["descriptors", "faiss, IVF of", "made in, core s", f"search of {QUERIES:,}, core s", "disk, GB"]
    return format_table([*headers, "right one first", f"of the exact {NEIGHBOURS}"], rows) if rows else ""


if __name__ == "__main__":
    main()
