"""Rates and bounds of an audit on the bundled world, over and over: realised ones beside nominal ones.

The screen: memorized and ordinary captions by a seed of their own each time, against control captions; ordinary ones
among what it decides on are false. The bound: of audits that generated every caption, samples of those that were not
flagged are drawn anew, and the bound of each stands beside what was missed.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import detect_mem
from experiments.means import mean_and_error, mean_text
from experiments.runs import quietly
from local_sd_pipeline import DenoisingPipeline
from memorization.audit.returned import of_kind, share_of
from memorization.audit.screening import UNFLAGGED, decide_captions
from memorization.audit.verdict import missed_bound, prompts_that_may_copy
from memorization.bundled import COPY_DESCRIPTOR, DOSES_GROUND_TRUTH, MODEL, PLANTED
from memorization.data.prompts import load_prompts
from memorization.evaluation.copies import CopySettings, evaluate_copies
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import interval_text
from memorization.files.layout import RunFiles
from memorization.files.whole import write_text
from memorization.finished_runs import Run, read_run
from memorization.models.stable_diffusion import load_pipeline
from memorization.scores import MAGNITUDE
from memorization.similarity.descriptors import CopyDescriptor
from memorization.tables import format_table

MEMORIZED, ORDINARY, CONTROL = "planted_memorized.jsonl", "planted_ordinary.jsonl", "planted_control_groundtruth"
FIRST_SEED = 70  # of the screens; nothing was tuned on it
SCREEN_RATES = (0.1, 0.2, 0.3)  # 48 controls find nothing at lower ones
AUDIT_RATE = 0.1  # of the audits
IMAGES = 4  # of a caption, as an audit takes
DRAWN = 30  # captions of a sample

Numbers = dict[str, Any]


# The screen


def screen_run(pipe: DenoisingPipeline, dataset: Path, name: str, seed: int, work: Path) -> Run:
    """D at the first step of the captions of a file, as an audit screens them."""
    with quietly():
        return detect_mem.run(
            pipe=pipe,
            dataset=str(dataset),
            end=len(load_prompts(str(dataset))),
            run_name=name,
            gen_seed=seed,
            num_images_per_prompt=IMAGES,
            run_version="baseline",
            early_exit=1,
            output_dir=work / str(seed),
        )


def screened_captions(work: Path) -> tuple[Path, set[int]]:
    """Memorized captions and ordinary ones behind them in one file, and the indices of the latter."""
    memorized, ordinary = (load_prompts(str(PLANTED / name)) for name in (MEMORIZED, ORDINARY))
    path = work / "captions.jsonl"
    write_text(path, "".join(json.dumps({"caption": r.prompt}) + "\n" for r in [*memorized, *ordinary]))
    return path, set(range(len(memorized), len(memorized) + len(ordinary)))


def measure_screens(seeds: Sequence[int], rates: Sequence[float], work: Path) -> list[Numbers]:
    """What each screen decides on at each rate, and what of it is ordinary."""
    pipe, (captions, ordinary) = load_pipeline(str(MODEL)), screened_captions(work)
    found = []
    for seed in tqdm(seeds, desc="screens", unit="seed"):
        run = screen_run(pipe, captions, "captions", seed, work)
        controls = screen_run(pipe, PLANTED / CONTROL, "controls", seed, work)
        for rate in rates:
            decided = decide_captions(run, controls, MAGNITUDE, rate, 0, seed).decided
            chosen = set(decided.indices(decided.memorized))
            numbers = {"seed": seed, "rate": rate, "captions": len(decided), "ordinary": len(ordinary)}
            found.append(numbers | {"decided": len(chosen), "false": len(chosen & ordinary)})
    return found


# The bound


def may_copy(folder: Path) -> tuple[dict[int, bool], dict[int, str]]:
    """Whether each caption of an audit of the bundled model may give a copy, and whether it was flagged."""
    run, others = (read_run(RunFiles(folder, f"{name}_ours").rows) for name in ("generated", "copy_controls"))
    controls = dict(enumerate(load_prompts(str(PLANTED / CONTROL))))
    how, descriptor = CopySettings(fdr=AUDIT_RATE, by_prompt=True), CopyDescriptor(COPY_DESCRIPTOR)
    found = evaluate_copies([run], [others], descriptor, how, str(DOSES_GROUND_TRUTH), control_records=controls)
    kinds = {line["index"]: line["kind"] for line in found.lines}
    return prompts_that_may_copy(found), kinds


def measure_bounds(folders: Mapping[int, Path], repetitions: int) -> list[Numbers]:
    """Of audits by their seeds: the bound of each of some samples, and what the screen missed."""
    found = []
    for seed, folder in tqdm(folders.items(), desc="bounds", unit="audit"):
        may, kinds = may_copy(folder)
        unflagged = of_kind(may, UNFLAGGED, kinds)
        missed = sum(unflagged.values()) / len(may)
        for draw in range(repetitions):
            sample = random.Random(draw).sample(sorted(unflagged), min(DRAWN, len(unflagged)))
            bound = missed_bound(share_of({k: unflagged[k] for k in sample}), len(unflagged), len(may))
            numbers = {"seed": seed, "draw": draw, "captions": len(may), "unflagged": len(unflagged)}
            found.append(numbers | {"drawn": len(sample), "missed": missed, "bound": bound})
    return found


# Tables


def repetitions_table(results: Mapping[str, Any]) -> str:
    """Realised false shares of the screen at each rate, and how often the bound holds."""
    return "\n\n".join(
        filter(None, [screens_table(results.get("screens", [])), bounds_table(results.get("bounds", []))])
    )


def screens_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for rate in sorted({f["rate"] for f in found}):
        some = [f for f in found if f["rate"] == rate]
        decided, false = [f["decided"] for f in some], [f["false"] / max(f["decided"], 1) for f in some]
        rows.append([f"{rate:g}", len(some), *(mean_text(mean_and_error(v)) for v in (decided, false))])
    headers = ["nominal rate of the screen", "repetitions", "captions decided on", "of them ordinary, realised rate"]
    return format_table(headers, rows) if rows else ""


def bounds_table(found: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for seed in sorted({f["seed"] for f in found}):
        some = [f for f in found if f["seed"] == seed]
        holds = share_measure([float(f["bound"] >= f["missed"]) for f in some], range(len(some)))
        bounds = mean_text(mean_and_error(f["bound"] for f in some))
        rows.append(
            [seed, some[0]["unflagged"], some[0]["drawn"], f"{some[0]['missed']:.3f}", bounds, interval_text(holds)]
        )
    headers = [
        "audit of seed",
        "not flagged",
        "of them drawn",
        "missed by the screen",
        "said to be at most",
        "bound holds",
    ]
    return format_table(headers, rows) if rows else ""
