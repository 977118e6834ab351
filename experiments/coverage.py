"""How often the intervals that tables show hold what is true: simulated, nominal 95 %.

    python -m experiments.coverage                       writes experiments/results/coverage.json, a few minutes

Every kind of interval at 24, 48 and 100 prompts of a class, true values at and near 0, 0.5, 0.9 and 1, with one image a
prompt and with four that are alike: normal scores of equal spread and of three times the spread, paired scores, skewed
measures, copies that come by prompt. A mean of which large values are rare is there too, as what no interval of a mean
can know.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from tqdm import tqdm

from memorization.bundled import ROOT
from memorization.evaluation.curves import balanced_accuracy, f1
from memorization.evaluation.detection_metrics import DETECTION_METRICS, auc_difference_measure
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import BootstrapSettings, Measure, mean_interval
from memorization.evaluation.tradeoff import against_reference, tradeoff_areas
from memorization.files.whole import write_text
from memorization.runs.arguments import HelpFormatter, natural_int, positive_int
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "coverage.json"
PROMPTS, IMAGES = (24, 48, 100), 4
ALIKE = 0.7  # correlation of a prompt's images
RESAMPLES = BootstrapSettings(500)
SLOW = 2  # replicates of what is slow: one in so many
RARE = "mean, 1 prompt in 20 is far off"

Simulation = Callable[[np.random.Generator, int, int], tuple[Measure, float]]  # (rng, prompts, images): interval, truth


@dataclass(frozen=True)
class Case:
    """What is simulated: a kind of interval, at a true value, of data of a shape."""

    interval: str
    truth: str
    shape: str
    simulate: Simulation
    images: Sequence[int] = (1, IMAGES)
    is_slow: bool = False

    def coverage(self, rng: np.random.Generator, prompts: int, images: int, replicates: int) -> dict[str, Any]:
        """Share of replicates with an interval that hold the truth, and the mean width; some have a dash in tables."""
        drawn = (self.simulate(rng, prompts, images) for _ in range(replicates))
        found = [(measure, truth) for measure, truth in drawn if np.isfinite(measure["value"])]
        held = [m["low"] - 1e-9 <= truth <= m["high"] + 1e-9 for m, truth in found]
        head = {
            "interval": self.interval,
            "truth": self.truth,
            "shape": self.shape,
            "prompts": prompts,
            "images": images,
        }
        width = float(np.mean([m["high"] - m["low"] for m, _ in found]))
        return head | {"replicates": len(found), "coverage": float(np.mean(held)), "width": width}


# What is drawn


def normal(rng: np.random.Generator, prompts: int, images: int) -> np.ndarray:
    """Standard normal scores, (prompts * images,), those of a prompt alike."""
    own = rng.normal(size=(prompts, images)) * np.sqrt(1 - ALIKE)
    return (rng.normal(size=(prompts, 1)) * np.sqrt(ALIKE) + own).ravel()


def share(p: float, alike: float) -> Simulation:
    """Images that are copies: as probable as a beta variable of their prompt, or all of a prompt or none."""

    def simulate(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
        prior = 1 / alike - 1
        chance = rng.beta(p * prior, (1 - p) * prior, (prompts, 1)) if prior else rng.random((prompts, 1)) < p
        values = rng.random((prompts, images)) < chance
        return share_measure(values.ravel(), np.arange(prompts).repeat(images)), p

    return simulate


def classes(rng: np.random.Generator, prompts: int, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standard normal scores of two equally large classes, their labels and prompts."""
    scores = np.r_[normal(rng, prompts, images), normal(rng, prompts, images)]
    return scores, np.arange(len(scores)) < len(scores) // 2, np.arange(2 * prompts).repeat(images)


def shift_of(auc: float, spread: float) -> float:
    """How much higher memorized scores are, in units of the others' spread; a perfect score is as good as apart."""
    return float(stats.norm.ppf(min(auc, 1 - 1e-15)) * np.sqrt(1 + spread**2))


def metric(name: str, auc: float, spread: float) -> Simulation:
    """A detection metric of normal scores, memorized ones of another spread."""
    shift, truth = shift_of(auc, spread), true_metric(name, auc, spread)

    def simulate(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
        scores, labels, groups = classes(rng, prompts, images)
        return DETECTION_METRICS[name].measure(np.where(labels, shift + spread * scores, scores), labels, groups), truth

    return simulate


def true_metric(name: str, auc: float, spread: float) -> float:
    shift = shift_of(auc, spread)
    if name == "auc":
        return auc
    if name.startswith("tpr"):
        fpr = 0.01 if name == "tpr_at_1_fpr" else 0.03
        return float(stats.norm.sf((stats.norm.isf(fpr) - shift) / spread))
    thresholds = np.linspace(-10, 10 + max(shift, 0), 20001)
    tpr, fprs = stats.norm.sf((thresholds - shift) / spread), stats.norm.sf(thresholds)
    return float((f1(tpr, fprs, 1, 1) if name == "best_f1" else balanced_accuracy(tpr, fprs)).max())


def auc_difference(one: float, other: float, spread: float, correlation: float) -> Simulation:
    """AUC of one score less that of another on the same images, which go together within a class."""
    shifts = shift_of(one, spread), shift_of(other, spread)

    def simulate(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
        first, labels, groups = classes(rng, prompts, images)
        second = correlation * first + np.sqrt(1 - correlation**2) * classes(rng, prompts, images)[0]
        pair = (np.where(labels, shift + spread * s, s) for shift, s in zip(shifts, (first, second), strict=True))
        return auc_difference_measure(*pair, labels, groups), one - other

    return simulate


def mean(centre: float, deviation: float) -> Simulation:
    """A measure between 0 and 1 of beta distribution, so that it is skewed near either."""
    size = centre * (1 - centre) / deviation**2 - 1

    def simulate(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
        values = rng.beta(centre * size, (1 - centre) * size, prompts)
        return mean_interval(values, np.arange(prompts), RESAMPLES), centre

    return simulate


def rare_mean(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
    values = np.where(rng.random(prompts) < 0.05, 0.9, 0.0) + rng.normal(0, 0.05, prompts)
    return mean_interval(values, np.arange(prompts), RESAMPLES), 0.045


def tradeoff(what: str, gain: float, at_the_end: bool = False) -> Simulation:
    """Two methods at three strengths whose SSCD and CLIP fall on a line, one of them lower by `gain` in SSCD.

    Images are copies by prompt, under all runs alike, and vary by run.

    Args:
        what: "difference" at equal utility, "area" or "area_difference".
        at_the_end: whether the difference is that of the strongest run, whose CLIP is the last that PE has.
    """
    runs = [("plain", "none", 0), *((f"{m}{s}", m, s) for m in ("pe", "own") for s in (1, 2, 3))]
    rows = [{"kind": "all", "run": run, "method": method, "strength": s} for run, method, s in runs]

    def simulate(rng: np.random.Generator, prompts: int, images: int) -> tuple[Measure, float]:
        copied, measured = rng.random(prompts), {}
        for run, method, strength in runs:
            sscd = 0.9 * copied - 0.1 * strength - gain * (method == "own") + rng.normal(0, 0.1, prompts) + 0.3
            clip = 0.4 - 0.03 * strength + rng.normal(0, 0.03, prompts)
            measured[run] = [{"kind": "k", "sscd": [s], "clip": [c]} for s, c in zip(sscd, clip, strict=True)]
        if what == "difference":
            run = "own3" if at_the_end else "own2"
            return against_reference(rows, measured, "all", RESAMPLES)[1][run][1], -gain
        areas = tradeoff_areas(rows, measured, "all", RESAMPLES)
        if what == "area":
            return areas["pe"]["area"], 0.75 - 0.15
        return areas["own"]["area_difference"], -gain * 5 / 6  # both begin at plain generation

    return simulate


# All of them


def cases() -> Iterator[Case]:
    """Every kind of interval at every true value."""
    for p in (0.01, 0.05, 0.5, 0.9, 0.99):
        for alike in (0.1, 0.7, 1.0):
            yield Case("share", f"{p:g}", f"images alike by {alike:g}", share(p, alike), (1, 4, 16))
    for name, known in DETECTION_METRICS.items():
        for auc in (0.5, 0.9, 0.97, 0.99, 1.0):
            for spread in (1.0, 3.0):
                truth = f"{true_metric(name, auc, spread):.3g}"
                yield Case(known.label, truth, f"normal, AUC {auc:g}, spread {spread:g}", metric(name, auc, spread))
    for one, other in ((0.5, 0.5), (0.9, 0.9), (0.97, 0.9), (0.99, 0.99), (1.0, 0.98), (1.0, 1.0)):
        for spread, correlation in ((1.0, 0.5), (3.0, 0.95)):
            shape = f"AUC {one:g} and {other:g}, spread {spread:g}, correlation {correlation:g}"
            yield Case("difference of AUC", f"{one - other:g}", shape, auc_difference(one, other, spread, correlation))
    for centre, deviation in ((0.02, 0.03), (0.5, 0.25), (0.9, 0.1), (0.98, 0.03)):
        shape = f"beta, deviation {deviation:g}"
        yield Case("mean", f"{centre:g}", shape, mean(centre, deviation), (1,))
    yield Case(RARE, "0.045", "0.9 in 5 % of prompts, else about 0", rare_mean, (1,))
    for gain in (0.0, 0.2):
        for at_the_end in (False, True):
            place = "at the end of PE's curve" if at_the_end else "within PE's curve"
            simulate = tradeoff("difference", gain, at_the_end)
            yield Case("difference at equal utility", f"{0 - gain:g}", place, simulate, (1,), is_slow=True)
        simulate = tradeoff("area_difference", gain)
        yield Case("difference of area", f"{0 - gain * 5 / 6:.3g}", "straight curves", simulate, (1,), is_slow=True)
    yield Case("area", "0.6", "a straight curve", tradeoff("area", 0.0), (1,), is_slow=True)


def simulate_all(replicates: int, seed: int = 0) -> list[dict[str, Any]]:
    """Coverage of every case; each has its own random numbers, whatever else is simulated."""
    jobs = [(case, n, images) for case in cases() for n in PROMPTS for images in case.images]
    found = []
    for case, n, images in tqdm(jobs, desc="coverage", unit="case"):
        key = [seed, n, images, *f"{case.interval} {case.truth} {case.shape}".encode()]
        count = max(replicates // SLOW, 1) if case.is_slow else replicates
        found.append(case.coverage(np.random.default_rng(key), n, images, count))
    return found


def coverage_table(results: Sequence[dict[str, Any]] | None = None) -> str:
    """Markdown: of every kind of interval the mean and the lowest coverage by number of prompts, and where that is.

    Args:
        results: of `simulate_all`; those that are kept by default.
    """
    if results is None:
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = []
    for interval in dict.fromkeys(r["interval"] for r in results):
        some = [r for r in results if r["interval"] == interval]
        error = np.sqrt(0.05 * 0.95 / np.median([r["replicates"] for r in some]))
        row = [interval, len(some), f"{np.mean([r['coverage'] for r in some]):.3f}"]
        row += [f"{min(r['coverage'] for r in some if r['prompts'] == n):.3f}" for n in PROMPTS]
        worst = min(some, key=lambda r: r["coverage"])
        place = f"{worst['truth']} ({worst['shape']}), {worst['prompts']} prompts"
        rows.append([*row, f"{error:.3f}", place + (f" of {worst['images']}" if worst["images"] > 1 else "")])
    lowest = [f"lowest, {n} prompts" for n in PROMPTS]
    headers = ["95 % interval of", "cases", "mean coverage", *lowest, "standard error of each", "lowest at"]
    return format_table(headers, rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--replicates", type=positive_int, default=1000, help=f"of each case; one in {SLOW} of slow ones"
    )
    parser.add_argument("--seed", type=natural_int, default=0, help="of the random numbers")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file")
    args = parser.parse_args(argv)
    results = simulate_all(args.replicates, args.seed)
    write_text(args.output, json.dumps(results, indent=1) + "\n")
    print(coverage_table(results))


if __name__ == "__main__":
    main()
