"""One page of a benchmark: what every score and every mitigation is worth and costs, out of eval_mem.py's numbers.

    python experiments/benchmark_tables.py strengths FOLDER        the strength of each method that hides, for the audit
    python experiments/benchmark_tables.py page FOLDER             writes benchmark.md into it

FOLDER is that of `eval_mem.py --output`; what is not there yet is left out of the page.
"""

import argparse
import json
from pathlib import Path

from memorization.errors import InputError, exit_on_input_error
from memorization.evaluation.audit import hiding_strengths
from memorization.evaluation.statistics import interval_text
from memorization.files.whole import write_text
from memorization.finished_runs import PLAIN
from memorization.scores import horizon_text, is_published, score_cost, signal_of
from memorization.tables import Table

ALL = "all memorized"


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("strengths", "page"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    return parser


def read(folder, name):
    """A JSON file of the folder, None where it is not there."""
    path = folder / f"{name}.json"
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}; evaluate again") from error


def strengths(folder):
    results = read(folder, "mitigation")
    if results is None:
        raise InputError(f"{folder} has no mitigation.json; run eval_mem.py mitigation --output {folder}")
    return [f"{method}:{r['strength']:g}" for method, r in hiding_strengths(results).items()]


def timing_job(key, horizon):
    """Name of the job in seconds.json that gives a score alone."""
    if key == "attention_entropy_layer":  # of the first step
        return "D, T=1"
    if key == "text_noise_norm":
        return f"D, T={horizon or 'all'}"
    return signal_of(key) or (key if is_published(key) else "bright ending")


def seconds_text(timed, job):
    return f"{timed['jobs'][job]['seconds']:.2f}" if timed and job in timed["jobs"] else "-"


def detection_table(scores, timed, num_steps):
    """Every score per image, the cheapest first, columns for each set of negatives."""
    kinds = [r["memorized_kind"] for r in scores]
    kind = ALL if ALL in kinds else kinds[0]
    some = [r for r in scores if r["level"] == "image" and r["memorized_kind"] == kind]
    sets, lines = list(dict.fromkeys(r["negative_set"] for r in some)), {}
    for r in some:
        key, horizon = r["key"], r["T"]
        head = (score_cost(key, horizon, num_steps), r["score"], horizon_text(key, horizon),
                seconds_text(timed, timing_job(key, horizon)))  # fmt: skip
        less = interval_text(r["auc_difference"]) if "auc_difference" in r else "-"
        cells = [interval_text(r["auc"]), less, f"{r['tpr_at_1_fpr']['value']:.2f}"]
        lines.setdefault(head, []).extend(cells)
    rows = [[name, t, cost, seconds, *cells] for (cost, name, t, seconds), cells in lines.items()]
    columns = [h for s in sets for h in (f"AUC, {s}", "less D's, T=1", "TPR@1%FPR")]
    note = "Evaluations and seconds an image of the score alone; a gradient or tangent counts as two evaluations."
    headers = ["score", "T", "evaluations", "seconds", *columns]
    return Table(f"Detection of {kind}, per image", headers, sorted(rows, key=lambda row: row[2]), note)


def mitigation_table(results, damage, audit, timed):
    """Every method at its weakest strength that hides, and what that does to others and costs."""
    plain = next((r for r in results if r["method"] == PLAIN and r["kind"] == "all"), None)
    damage = {(r["method"], r["strength"]): r for r in damage or ()}
    audit = {(r["method"], r["strength"]): r for r in audit or ()}
    rows = []
    for r in [*([plain] if plain else []), *hiding_strengths(results).values()]:
        place = (r["method"], r["strength"])
        harm, back = damage.get(place, {}), audit.get(place, {})
        rows.append([
            r["method"], f"{r['strength']:g}", interval_text(r["copied"], 2), interval_text(r["sscd"], 2),
            interval_text(r["clip"], 2), interval_text(r["area"]) if "area" in r else "-",
            *(interval_text(harm[n], 2) if n in harm else "-" for n in ("changed", "clip_change", "kept")),
            interval_text(defined(back["returned"]), 2) if back else "-", f"{r['evals']:.0f}",
            seconds_text(timed, f"{r['method']}:{r['strength']:g}"),
        ])  # fmt: skip
    headers = [
        "method", "strength", "copies left", "SSCD", "CLIP", "area", "ordinary: changed", "ordinary: CLIP less plain's",
        "ordinary: SSCD to plain", "hidden that returned", "evaluations", "seconds",
    ]  # fmt: skip
    note = "The weakest strength that leaves at most 10 % copies, else the strongest. Area: of all strengths together."
    return Table("Mitigation", headers, rows, note)


def defined(measure):
    """A measure out of JSON, where what is not defined is null."""
    return {k: float("nan") if v is None else v for k, v in measure.items()}


def page(folder, num_steps):
    detection, results, timed = (read(folder, n) for n in ("detection", "mitigation", "seconds"))
    tables = []
    if detection is not None:
        tables.append(detection_table(detection["scores"], timed, num_steps))
    if results is not None:
        tables.append(mitigation_table(results, read(folder, "damage"), read(folder, "audit"), timed))
    if not tables:
        raise InputError(f"{folder} has neither detection.json nor mitigation.json; run eval_mem.py first")
    return "\n\n".join(table.markdown() for table in tables) + "\n"


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        if args.what == "strengths":
            print("\n".join(strengths(args.folder)))
            return
        text = page(args.folder, args.num_inference_steps)
        write_text(args.folder / "benchmark.md", text)
        print(text)


if __name__ == "__main__":
    main()
