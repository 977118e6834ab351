"""What thresholds and decisions let through when nothing else is wrong: simulated with exchangeable controls.

    python -m experiments.decisions_simulation           writes experiments/results/decisions.json, under a minute

The false positive rate of calibrated thresholds, and the share of false ones among prompts that are called memorized at
a false discovery rate, with the share of memorized prompts that are found.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from memorization.bundled import ROOT
from memorization.evaluation.decisions import benjamini_hochberg, conformal_p_values
from memorization.evaluation.thresholds import calibrate_threshold
from memorization.files.whole import write_text
from memorization.runs.arguments import HelpFormatter, natural_int, positive_int
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "decisions.json"
CONTROLS, RATES = (99, 200, 1000), (0.01, 0.05)
PROMPTS, MEMORIZED = 200, (0, 10, 50)  # of a run, and how many of them are memorized
DISTANCE = 4.0  # of memorized scores from others, in deviations


def false_positive_rate(controls: int, fpr: float, replicates: int, seed: int = 0) -> dict[str, Any]:
    """How many of other prompts lie above a calibrated threshold, with the standard error over sets of controls."""
    rng = np.random.default_rng([seed, controls, round(1 / fpr)])
    rates = [stats.norm.sf(calibrate_threshold(rng.normal(size=controls), fpr)) for _ in range(replicates)]
    expected = np.floor(fpr * (controls + 1) + 1e-9) / (controls + 1)
    error = np.std(rates) / np.sqrt(replicates)
    head = {"controls": controls, "nominal": fpr, "replicates": replicates, "expected": float(expected)}
    return head | {"found": float(np.mean(rates)), "error": float(error)}


def false_discovery_rate(controls: int, fdr: float, memorized: int, replicates: int, seed: int = 0) -> dict[str, Any]:
    """Mean share of false ones among prompts called memorized, and share of the memorized that are found."""
    rng = np.random.default_rng([seed, controls, round(1 / fdr), memorized])
    is_memorized = np.arange(PROMPTS) < memorized
    false, power = [], []
    for _ in range(replicates):
        scores = rng.normal(size=PROMPTS) + DISTANCE * is_memorized
        found = benjamini_hochberg(conformal_p_values(scores, rng.normal(size=controls))) <= fdr
        false.append((found & ~is_memorized).sum() / max(found.sum(), 1))
        power.append(found[is_memorized].mean() if memorized else np.nan)
    error = np.std(false) / np.sqrt(replicates)
    head = {"controls": controls, "nominal": fdr, "memorized": memorized, "prompts": PROMPTS, "replicates": replicates}
    mean = float(np.mean(power)) if memorized else None
    return head | {"found": float(np.mean(false)), "error": float(error), "power": mean}


def simulate_all(replicates: int, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Every number of controls at every rate."""
    pairs = [(n, rate) for n in CONTROLS for rate in RATES]
    rates = [false_positive_rate(n, fpr, replicates, seed) for n, fpr in tqdm(pairs, desc="false positives")]
    jobs = [(n, q, m) for n, q in pairs for m in MEMORIZED]
    return {
        "fpr": rates,
        "fdr": [false_discovery_rate(*job, replicates, seed) for job in tqdm(jobs, desc="false discoveries")],
    }


def decisions_table(results: dict[str, list[dict[str, Any]]] | None = None) -> str:
    """Markdown: false positive rates of thresholds, then false discovery rates of decisions.

    Args:
        results: of `simulate_all`; those that are kept by default.
    """
    if results is None:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))

    def percent(value: float) -> str:
        return f"{100 * value:.2f} %"

    rows = [
        [
            r["controls"],
            percent(r["nominal"]),
            percent(r["expected"]),
            f"{percent(r['found'])} (± {percent(r['error'])})",
        ]
        for r in results["fpr"]
    ]
    thresholds = format_table(["controls", "false positive rate asked for", "expected", "simulated"], rows)
    rows = [
        [
            *(r["controls"], percent(r["nominal"]), f"{r['memorized']} of {r['prompts']}"),
            *(f"{percent(r['found'])} (± {percent(r['error'])})", "-" if r["power"] is None else percent(r["power"])),
        ]
        for r in results["fdr"]
    ]
    headers = ["controls", "false discovery rate asked for", "memorized", "false among those found", "memorized found"]
    return f"{thresholds}\n\n{format_table(headers, rows)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--replicates", type=positive_int, default=4000, help="sets of controls of each case")
    parser.add_argument("--seed", type=natural_int, default=0, help="of the random numbers")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args(argv)
    results = simulate_all(args.replicates, args.seed)
    write_text(args.output, json.dumps(results, indent=1) + "\n")
    print(decisions_table(results))


if __name__ == "__main__":
    main()
