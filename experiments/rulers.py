"""What copy descriptors make of the same images: ranks, AUC against controls, and how far they agree.

    python -m experiments.rulers RUN.jsonl --controls OTHERS.jsonl --sscd DESCRIPTOR --sscd immaculate

Generated copies as `eval_mem.py copies` judges them, once by each descriptor, and the rank correlation (Spearman) of
what two descriptors say of the same image: how near its own training picture is, within each kind of prompt, and how
near the nearest of all is, over all images.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from memorization.errors import exit_on_input_error, input_errors
from memorization.evaluation.copies import Copies, evaluate_copies
from memorization.evaluation.judged_images import ALL, Line, column
from memorization.evaluation.statistics import (
    USUAL,
    BootstrapSettings,
    Measure,
    Result,
    interval_text,
    with_bootstrap_interval,
)
from memorization.files.whole import write_text
from memorization.finished_runs import read_run
from memorization.runs.arguments import HelpFormatter
from memorization.similarity.descriptors import CopyDescriptor
from memorization.tables import format_table, plain

SHOWN = {
    "rank1": "the nearest of all is its own",
    "own": "similarity to its own",
    "above_background": "above the 99th percentile of different pictures",
    "auc": "AUC, own against controls' nearest",
    "region_auc": "the same on the copied region",
}


def rank_correlation(
    a: np.ndarray, b: np.ndarray, groups: Sequence[str], bootstrap: BootstrapSettings = USUAL
) -> Measure:
    """Spearman's correlation of two scores of the same images, its interval by resampling prompts.

    Args:
        a, b: one score per image, (images,).
        groups: the prompt of each image.
    """
    rows = np.arange(len(a))
    resampled = [np.repeat(rows, counts.astype(int)) for counts in bootstrap.weights(groups)]
    replicates = [spearmanr(a[chosen], b[chosen]).statistic for chosen in resampled]
    return with_bootstrap_interval(spearmanr(a, b).statistic, replicates, len(set(groups)))


def agreement(lines: Mapping[str, Sequence[Line]]) -> list[Result]:
    """Rank correlations of each pair of descriptors, over all images and by kind of prompt.

    Args:
        lines: by descriptor, of the same images in the same order.
    """
    results: list[Result] = []
    for one, other in combinations(lines, 2):
        kinds = list(dict.fromkeys(line["kind"] for line in lines[one]))
        for kind, key in (*((kind, "own") for kind in kinds), (ALL, "nearest")):
            some = [k for k, line in enumerate(lines[one]) if kind in (ALL, line["kind"])]
            a, b = (column([lines[name][k] for k in some], key) for name in (one, other))
            measure = rank_correlation(a, b, [lines[one][k]["prompt"] for k in some])
            head = {"pair": [one, other], "kind": kind, "similarity": key, "images": len(some)}
            results.append(head | {"rank_correlation": measure})
    return results


def rulers_table(judged: Mapping[str, Sequence[Result]]) -> str:
    """A row for each descriptor and kind of prompt.

    Args:
        judged: results of `evaluate_copies` by descriptor.
    """
    rows = []
    for name, results in judged.items():
        for result in results:
            cells = [interval_text(result[key]) if key in result else "" for key in SHOWN]
            rows.append([name, result["kind"], f"{result['images']} of {result['prompts']}", *cells])
    return format_table(["descriptor", "kind", "images of prompts", *SHOWN.values()], rows)


def agreement_table(results: Sequence[Result]) -> str:
    """A row for each kind of prompt; where there are several pairs of descriptors, each row says which."""
    is_named = len({tuple(r["pair"]) for r in results}) > 1
    rows = [
        [*([" and ".join(r["pair"])] if is_named else []), r["kind"], r["similarity"], r["images"]]
        + [interval_text(r["rank_correlation"])]
        for r in results
    ]
    headers = ["kind", "similarity to", "images", "rank correlation"]
    return format_table([*(["descriptors"] if is_named else []), *headers], rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("runs", nargs="+", type=Path, help="result files of memorized prompts, with images")
    add("--controls", nargs="+", type=Path, required=True, help="result files of control captions")
    add("--sscd", action="append", required=True, help="copy descriptor, as in eval_mem.py; once for each")
    add("--output", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        runs, controls = ([read_run(path) for path in paths] for paths in (args.runs, args.controls))
        judged: dict[str, Copies] = {}
        for name in args.sscd:
            with input_errors():
                descriptor = CopyDescriptor(name)
            judged[descriptor.description] = evaluate_copies(runs, controls, descriptor)
        agreed = agreement({name: copies.lines for name, copies in judged.items()})
        if args.output is not None:
            found = {name: {"results": c.results, "spread": c.spread} for name, c in judged.items()}
            write_text(args.output, json.dumps(plain({"descriptors": found, "agreement": agreed}), indent=1) + "\n")
    print(rulers_table({name: copies.results for name, copies in judged.items()}))
    if agreed:
        print(f"\n{agreement_table(agreed)}")


if __name__ == "__main__":
    main()
