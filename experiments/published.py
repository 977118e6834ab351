"""The published tables, out of the numbers that are kept in experiments/results/ and experiments/cost/results.json.

Pure functions from what those files hold to Markdown: `python -m tools.write_docs` pastes them into the docs, and tells
which are stale, without measuring anything again.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.benchmark_tables import Seconds, by_place
from experiments.runs import Entry
from memorization.bundled import ROOT
from memorization.evaluation.audit import hiding_strengths
from memorization.evaluation.shares import exact_bounds
from memorization.evaluation.statistics import interval_text
from memorization.mitigations.base import PLAIN
from memorization.scores import MAGNITUDE, horizon_text, score_cost
from memorization.tables import format_table, parse_results
from planted.making.doses import KINDS

RESULTS, COST = ROOT / "experiments" / "results", ROOT / "experiments" / "cost" / "results.json"
NEGATIVES = {"planted_nonmemorized": "unseen", "planted_near_miss": "near miss"}
YARDSTICK = "pe"  # what trade-offs are compared with
STEPS, IMAGES = 50, 4  # of the runs that are kept
MIB, GIB = 2**20, 2**30

Record = Mapping[str, Any]


def read(name: str) -> Any:
    return parse_results((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def kept_table(name: str, caption: str) -> list[list[str]]:
    """Cells of the table under a heading of a Markdown file of experiments/results/, the headers first.

    Args:
        caption: the heading; an empty one takes a file that is one table.
    """
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    lines = text.split(f"### {caption}\n\n", 1)[1].split("\n\n")[0] if caption else text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.strip().splitlines()]
    return [rows[0], *rows[2:]]


# Results of the two sweeps


def horizon(T: int | None) -> str:
    return str(T or STEPS)


def class_columns(rows: Iterable[Record], head: Callable[[Record], tuple[str, ...]]) -> list[list[str]]:
    """AUCs with a column for each kind of memorized prompt against each set of others, a row for each head."""
    cells: dict[tuple[str, ...], dict[tuple[str, str], str]] = {}
    for r in rows:
        cells.setdefault(head(r), {})[r["memorized_kind"], r["negative_set"]] = interval_text(r["auc"])
    places = [(kind, negative) for negative in NEGATIVES for kind in KINDS]
    return [[*key, *(row[place] for place in places)] for key, row in cells.items()]


CLASS_HEADERS = [f"{kind}, {name}" for name in NEGATIVES.values() for kind in KINDS]


def detection() -> str:
    """AUC per image of every score at every T."""
    rows = [r for r in read("detection")["scores"] if r["level"] == "image" and r["images"] == IMAGES]

    def head(r: Record) -> tuple[str, ...]:
        return r["score"], horizon_text(r["key"], r["T"]).replace("all", str(STEPS))

    return format_table(["AUC per image", "T", *CLASS_HEADERS], class_columns(rows, head))


def detection_differences() -> str:
    """Paired differences of AUC between scores of the same images."""
    rows = [r for r in read("detection")["differences"] if r["score"] == "LD"]
    cells = class_columns(rows, lambda r: (f"{r['score']} less {r['less']}", horizon(r["T"])))
    return format_table(["AUC, same images", "T", *CLASS_HEADERS], sorted(cells, key=lambda row: row[0]))


def localisation() -> str:
    """Every map against true masks, the best first."""
    maps = [r for r in read("localisation") if r["kind"] == "template"]
    maps.sort(key=lambda r: -r["auroc"]["value"])
    measures = ("auroc", "auroc_gain", "average_precision", "iou_dataset")
    rows = [[r["map"], *(interval_text(r[name]) for name in measures)] for r in maps]
    headers = ["map", "pixel AUROC", "less bright ending", "average precision", "IoU, one threshold"]
    return format_table(headers, rows)


# The benchmark


def counted(r: Record, name: str) -> str:
    """A share of a run's images with what was counted, also where kept results do not say it."""
    total = r["prompts"] * r["images"]
    return f"{r[name]['value']:.2f}, {round(r[name]['value'] * total)} of {total}"


def share_text(measure: Record, prompts: float) -> str:
    """A share with its interval; that of results kept from before, by resampling, had no width at 0 and 1.

    Args:
        prompts: that it is a share of, for the exact interval of those.
    """
    if "of" in measure or not np.isfinite(measure["value"]) or prompts < 1:
        return interval_text(measure, 2)  # type: ignore[arg-type]
    low, high = exact_bounds(measure["value"], prompts)
    return interval_text({"value": measure["value"], "low": float(low), "high": float(high)}, 2)


def bench(name: str) -> Any:
    return read(f"benchmark/{name}")


def benchmark_detection() -> str:
    """Every score against both sets of others, the cheapest first."""
    kept = bench("detection")["scores"]
    seconds, found = Seconds(bench("seconds")["jobs"]), {}
    for r in kept:
        if r["memorized_kind"] == "all memorized" and r["level"] == "image":
            found[r["key"], r["T"], r["negative_set"]] = r
    rows = []
    for key, T in sorted(dict.fromkeys(k[:2] for k in found), key=lambda k: score_cost(*k, STEPS)):
        sets = [found[key, T, name] for name in NEGATIVES]
        name, text = sets[0]["score"], horizon_text(key, T)
        row = [f"`{name}`" if name == key else name, text, str(score_cost(key, T, STEPS)), seconds.of_score(key, T)]
        for r in sets:
            itself = (key, T) == (MAGNITUDE, 1)
            row += [interval_text(r["auc"]), "" if itself else interval_text(r["auc_difference"])]
        rows.append([*row, ", ".join(f"{r['tpr_at_1_fpr']['value']:.2f}" for r in sets)])
    headers = ["score", "T", "evaluations", "seconds"]
    headers += [text for name in NEGATIVES.values() for text in (f"AUC, {name}", "less D, T = 1")]
    return format_table([*headers, "TPR at 1 % FPR"], rows)


def benchmark_mitigation() -> str:
    """Every method at the weakest strength that hides, by what it leaves."""
    results, seconds = bench("mitigation"), Seconds(bench("seconds")["jobs"])
    plain = next(r for r in results if r["method"] == PLAIN and r["kind"] == "all")
    chosen = sorted(hiding_strengths(results).values(), key=lambda r: (r["copied"]["value"], r["method"]))
    harms, returns = by_place(bench("damage")), by_place(bench("audit"))
    rows = [mitigation_row(plain, harms, {}, seconds), *(mitigation_row(r, harms, returns, seconds) for r in chosen)]
    headers = ["method", "strength", "copies left", "SSCD", "CLIP", "area", "less PE's", "unlike ordinary"]
    headers.append("ordinary: SSCD to plain")
    return format_table([*headers, "CLIP less plain's", "returned", "evaluations", "seconds"], rows)


def mitigation_row(r: Record, harms: Mapping, returns: Mapping, seconds: Seconds) -> list[str]:
    place = (r["method"], r["strength"])
    is_plain, harm = r["method"] == PLAIN, harms.get(place)
    row = ["none" if is_plain else f"`{r['method']}`", "" if is_plain else f"{r['strength']:g}"]
    row += [counted(r, "copied"), interval_text(r["sscd"], 2), f"{r['clip']['value']:.2f}"]
    row += [interval_text(r["area"], 2) if "area" in r else ""]
    row += ["" if r["method"] in (PLAIN, YARDSTICK) else interval_text(r["area_difference"], 2)]
    row += [f"{r['outside']['value']:.2f}{', ruined' if r.get('ruined') else ''}" if "outside" in r else ""]
    row += ["-", "-"] if harm is None else [interval_text(harm["kept"], 2), f"{harm['clip_change']['value']:.2f}"]
    return [
        *row,
        returned(r["method"], returns.get(place)),
        f"{r['evals']:.0f}",
        seconds.text(f"{place[0]}:{place[1]:g}"),
    ]


def returned(method: str, audit: Record | None) -> str:
    """Share of the hidden memories that came back; why there is none where there is none."""
    if method == PLAIN:
        return ""
    entry = Entry(method)
    if entry.reads_words:
        return "reads words"
    if entry.searches_paraphrases:
        return "knows the prompt"
    return "-" if audit is None else share_text(audit["returned"], audit["hidden"]["value"] * audit["prompts"])


def caption_swap() -> str:
    """Scores on a prompt's own training image against another's."""
    headers, *rows = kept_table("benchmark/caption_swap", "")
    names = {"text_noise_norm_early_masked": "LD with noise_diff_map"}
    return format_table(headers, [[names.get(name, name), *cells] for name, *cells in rows])


# What is measured of cost


def cost(results: Record | None = None) -> str:
    """Seconds, evaluations and memory of every job, batch size, number of processes and of prompts.

    Args:
        results: what measure_cost.py wrote; those that are kept by default.
    """
    if results is None:
        results = json.loads(COST.read_text(encoding="utf-8"))
    parts = [job_table(model, found) for model, found in results.get("jobs", {}).items()]
    pace = ["seconds per image", "images per second"]
    for name, headers in (("batches", ["batch size"]), ("processes", ["processes", "threads each"])):
        keys = [header.removesuffix(" each").replace(" ", "_") for header in headers]
        rows = [[*(r[k] for k in keys), *paces(r["seconds_per_image"])] for r in results.get(name, ())]
        parts += [format_table([*headers, *pace], rows)] if rows else []
    rows = [[r["script"], r["prompts"], f"{r['memory'] / MIB:.0f} MiB"] for r in results.get("prompts", ())]
    parts += [format_table(["script", "prompts", "peak memory"], rows)] if rows else []
    machine = results["machine"]
    parts.append(f"Measured on {machine['device']}, torch {machine['torch']}, diffusers {machine['diffusers']}.")
    return "\n\n".join(parts)


def paces(seconds: float) -> list[float]:
    return [seconds, 1 / seconds]


def job_table(model: str, found: Record) -> str:
    """One model's jobs."""
    headers = ["job", "seconds per image", "ratio to (a)", "evaluations per image", "least", "peak memory", "written"]
    rows = [job_row(r, found["num_images"]) for r in found["rows"]]
    images, size, pixel = (found[k] for k in ("num_images", "batch_size", "largest_pixel_difference"))
    about = f"{images} image{'s' if images > 1 else ''} in batches of {size}, {found['steps']} steps, medians of "
    about += f"{found['repeats']} rounds; images of (a) and (b) differ by at most {pixel} of 255"
    return f"{model}: {about}.\n\n{format_table(headers, rows)}"


def job_row(r: Record, num_images: int) -> Sequence[object]:
    sizes = [f"{r['memory'] / GIB:.2f} GiB", f"{r['written'] / 1e6:.2f} MB"]
    return [r["job"], r["seconds"] / num_images, r["ratio"], f"{r['evals']:g}", r["least_evals"], *sizes]


TABLES: dict[str, Callable[[], str]] = {
    "detection": detection,
    "detection_differences": detection_differences,
    "localisation": localisation,
    "benchmark_detection": benchmark_detection,
    "benchmark_mitigation": benchmark_mitigation,
    "caption_swap": caption_swap,
    "cost": cost,
}
