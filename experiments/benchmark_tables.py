"""One page of a benchmark: what every score and every mitigation is worth and costs, out of eval_mem.py's numbers.

    python -m experiments.benchmark_tables strengths FOLDER    the strength of each method that hides, for the audit
    python -m experiments.benchmark_tables page FOLDER         writes benchmark.md into it

FOLDER is that of `eval_mem.py --output`; what is not there yet is left out of the page.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memorization.errors import InputError, exit_on_input_error
from memorization.evaluation.audit import hiding_strengths
from memorization.evaluation.statistics import Result, interval_text
from memorization.files.whole import write_text
from memorization.finished_runs import PLAIN
from memorization.runs.arguments import HelpFormatter
from memorization.scores import MAGNITUDE, detector_of, horizon_text, score_cost
from memorization.tables import Table, parse_results

ALL_MEMORIZED = "all memorized"
DAMAGE_MEASURES = ("changed", "clip_change", "kept")
DETECTION_NOTE = (
    "Evaluations and seconds per image of the score alone; a gradient or tangent counts as two evaluations."
)
MITIGATION_HEADERS = [
    "method",
    "strength",
    "copies left",
    "SSCD",
    "CLIP",
    "area",
    "ordinary: changed",
    "ordinary: CLIP less plain's",
    "ordinary: SSCD to plain",
    "hidden that returned",
    "evaluations",
    "seconds",
]
MITIGATION_NOTE = (
    "The weakest strength that leaves at most 10 % copies, else the strongest. Area: of all strengths together."
)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("what", choices=("strengths", "page"), help="what to make of the evaluation")
    add("folder", type=Path, help="of the evaluation")
    add("--num_inference_steps", type=int, default=50, help="of the runs, for the costs")
    return parser


def read(folder: Path, name: str) -> Any:
    """A JSON file of the folder, None where it is not there.

    Raises:
        InputError: if it is damaged.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        return parse_results(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; evaluate again") from error


def strengths(folder: Path) -> list[str]:
    """The strength at which each method hides, as NAME:STRENGTH.

    Raises:
        InputError: if mitigations were not evaluated.
    """
    results = read(folder, "mitigation")
    if results is None:
        raise InputError(f"{folder} has no mitigation.json; run eval_mem.py mitigation --output {folder}")
    return [f"{method}:{r['strength']:g}" for method, r in hiding_strengths(results).items()]


@dataclass(frozen=True)
class Seconds:
    """What time_methods.py measured: seconds per image by job."""

    jobs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def text(self, job: str) -> str:
        return f"{self.jobs[job]['seconds']:.2f}" if job in self.jobs else "-"

    def of_score(self, key: str, horizon: int | None) -> str:
        """Of the job that gives a score alone."""
        known = detector_of(key)
        if key == MAGNITUDE:
            return self.text(f"D, T={horizon or 'all'}")
        if known is not None and key in known.key_steps:  # of the first steps
            return self.text(f"D, T={known.key_steps[key]}")
        if known is not None and known.always:
            return self.text("bright ending")
        return self.text(key if known is None else known.name)


@dataclass
class ScoreRow:
    """A score of the detection table, with cells for each set of negatives."""

    cost: int
    head: list[str]
    cells: list[str] = field(default_factory=list)


def detection_table(scores: Sequence[Result], seconds: Seconds, num_steps: int) -> Table:
    """Every score per image, the cheapest first, columns for each set of negatives."""
    kinds = [r["memorized_kind"] for r in scores]
    kind = ALL_MEMORIZED if ALL_MEMORIZED in kinds else kinds[0]
    some = [r for r in scores if r["level"] == "image" and r["memorized_kind"] == kind]
    rows: dict[tuple[str, int | None], ScoreRow] = {}
    for r in some:
        key, horizon = r["key"], r["T"]
        cost = score_cost(key, horizon, num_steps)
        head = [r["score"], horizon_text(key, horizon), str(cost), seconds.of_score(key, horizon)]
        row = rows.setdefault((key, horizon), ScoreRow(cost, head))
        less = interval_text(r["auc_difference"]) if "auc_difference" in r else "-"
        row.cells += [interval_text(r["auc"]), less, f"{r['tpr_at_1_fpr']['value']:.2f}"]
    headers = ["score", "T", "evaluations", "seconds"]
    for name in dict.fromkeys(r["negative_set"] for r in some):
        headers += [f"AUC, {name}", "less D's, T=1", "TPR@1%FPR"]
    lines = [[*row.head, *row.cells] for row in sorted(rows.values(), key=lambda row: row.cost)]
    return Table(f"Detection of {kind}, per image", headers, lines, DETECTION_NOTE)


def by_place(results: Sequence[Result] | None) -> dict[tuple[str, float], Result]:
    """Results by method and strength."""
    return {(r["method"], r["strength"]): r for r in results or ()}


def mitigation_table(
    results: Sequence[Result], damage: Sequence[Result] | None, audit: Sequence[Result] | None, seconds: Seconds
) -> Table:
    """Every method at its weakest strength that hides, and what that does to others and costs."""
    plain = [r for r in results if r["method"] == PLAIN and r["kind"] == "all"][:1]
    harms, returns = by_place(damage), by_place(audit)
    rows = []
    for r in [*plain, *hiding_strengths(results).values()]:
        place = (r["method"], r["strength"])
        harm, back = harms.get(place, {}), returns.get(place)
        row = [r["method"], f"{r['strength']:g}"]
        row += [interval_text(r[name], 2) for name in ("copied", "sscd", "clip")]
        row.append(interval_text(r["area"]) if "area" in r else "-")
        row += [interval_text(harm[name], 2) if name in harm else "-" for name in DAMAGE_MEASURES]
        row.append(interval_text(back["returned"], 2) if back else "-")
        rows.append([*row, f"{r['evals']:.0f}", seconds.text(f"{r['method']}:{r['strength']:g}")])
    return Table("Mitigation", MITIGATION_HEADERS, rows, MITIGATION_NOTE)


def page(folder: Path, num_steps: int) -> str:
    """Markdown of all that was evaluated.

    Raises:
        InputError: if there is nothing.
    """
    detection, results, timed = (read(folder, n) for n in ("detection", "mitigation", "seconds"))
    seconds = Seconds() if timed is None else Seconds(timed["jobs"])
    tables = []
    if detection is not None:
        tables.append(detection_table(detection["scores"], seconds, num_steps))
    if results is not None:
        tables.append(mitigation_table(results, read(folder, "damage"), read(folder, "audit"), seconds))
    if not tables:
        raise InputError(f"{folder} has neither detection.json nor mitigation.json; run eval_mem.py first")
    return "\n\n".join(table.markdown() for table in tables) + "\n"


def write_page(folder: Path, num_steps: int) -> str:
    """Write benchmark.md into the folder; returns its text."""
    text = page(folder, num_steps)
    write_text(folder / "benchmark.md", text)
    return text


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        if args.what == "strengths":
            print("\n".join(strengths(args.folder)))
        else:
            print(write_page(args.folder, args.num_inference_steps))


if __name__ == "__main__":
    main()
