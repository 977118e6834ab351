"""Copies, detection and mitigation as functions of the dose: how often a picture was in the training set.

    python -m experiments.doses                              the bundled model
    python -m experiments.doses --world FOLDER --model_id PATH --sscd immaculate      a world of real pictures

One detection run over all planted prompts and one over each set of others, one mitigation run for each method. A run
that was cut off goes on where it was. Copies are told by pixels; with a copy descriptor also by its similarity at the
field's cut, under mitigations by that alone. Options that are not listed here go to every run.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.dose_copies import PIXELS, ByDescriptor, Ruler, by_pixels
from experiments.dose_curves import (
    copy_entries,
    dose_figure,
    dose_table,
    groups_of,
    map_entries,
    mitigation_entries,
    mitigation_table,
    score_entries,
)
from experiments.dose_pictures import dose_sheet
from experiments.protocol import THREADS
from experiments.runs import Command, Entry, Runner, parse_entries, script
from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder, write_text
from memorization.finished_runs import Run, read_run
from memorization.runs.arguments import HelpFormatter, positive_int, seed_int
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.pixels import COPY_SIMILARITY
from memorization.tables import plain
from planted.making.doses import KINDS

STEM = "doses"
OTHERS = ("planted_nonmemorized", "planted_near_miss")
SHOWN = ("D, T=1", "D, T=all", "end-token attention")  # scores of the figure


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--world", type=Path, default=PLANTED, help="folder with the prompt files and the ground truth")
    add("--output", type=Path, default=Path("doses_output"), help="folder of all runs and of the tables")
    add("--seed", type=seed_int, default=51, help="gen_seed; nothing may have been tuned on it")
    add("--images", type=positive_int, default=4, help="images of each prompt in detection")
    add("--mitigated_images", type=positive_int, default=2, help="the same in mitigation")
    add("--scores", default="", help="more scores of detection, as in detect_mem.py")
    add("--sscd", help="copy descriptor that knows such pictures, as in eval_mem.py")
    add("--methods", nargs="*", default=[], metavar="NAME:STRENGTH,...", help="mitigations to measure")
    add("--jobs", type=positive_int, default=2, help="runs at a time, of one thread each")
    return parser


def commands(args: argparse.Namespace, entries: Sequence[Entry], rest: Sequence[str]) -> list[Command]:
    """Every run: detection of all prompt files, and each mitigation on the planted ones."""
    ground_truth = args.world / "planted_doses_groundtruth"
    usual = ("--gen_seed", args.seed, "--output_dir", args.output, "--no-store_img_npz", *rest)
    scores = ("--scores", args.scores) if args.scores else ()
    found = []
    for dataset in (ground_truth, *(args.world / f"{name}.jsonl" for name in OTHERS)):
        head = ("--run_name", f"{STEM}_{dataset.stem}", "--dataset", dataset, "--num_images_per_prompt", args.images)
        maps = ("--store_maps",) if dataset == ground_truth else ()
        found.append(script("detect_mem", *head, *usual, *scores, *maps))
    for entry in entries:
        head = ("--run_name", entry.run_name(STEM), "--dataset", ground_truth, *entry.options)
        found.append(script("inference_mem", *head, "--num_images_per_prompt", args.mitigated_images, *usual))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args, rest = make_parser().parse_known_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        entries = [entry for text in args.methods for entry in parse_entries(text)]
        with input_errors():
            descriptor = None if args.sscd is None else CopyDescriptor(args.sscd)
        make_folder(args.output, "--output")
        environment = {"HF_HUB_OFFLINE": "1", THREADS: "1"}
        Runner(args.output, args.jobs, environment).work(commands(args, entries, rest), "doses")
        write_results(args.world / "planted_doses_groundtruth", args.output, entries, descriptor)


def write_results(
    ground_truth: Path, output: Path, entries: Sequence[Entry], descriptor: CopyDescriptor | None = None
) -> None:
    """doses.json, doses.md and doses.png out of the finished runs; verbatim.png and template.png, of their images."""
    groups, records = groups_of(ground_truth), {r.index: r for r in load_prompts(str(ground_truth))}
    rulers: dict[str, Ruler] = {PIXELS: by_pixels}
    if descriptor is not None:
        rulers[f"{descriptor.path.name} above {COPY_SIMILARITY}"] = ByDescriptor(descriptor, records)
    last = [*rulers][-1]
    names = (ground_truth.stem, *OTHERS)
    planted, *others = (read_run(RunFiles(output, f"{STEM}_{name}_ours").rows) for name in names)
    mitigated = [read_run(e.rows(output, STEM)) for e in entries]

    def copied(run: Run) -> list[dict[str, Any]]:
        return [{"ruler": name} | e for name, r in rulers.items() for e in copy_entries(run, records, groups, r)]

    results = {
        "copies": copied(planted),
        "near_misses": copied(others[1]),  # numbered as the prompts that they are a word away from
        "scores": score_entries(planted, others, groups),
        "maps": map_entries(planted, groups),
        "mitigations": mitigation_entries(mitigated, records, groups, rulers[last]),
    }
    write_text(output / "doses.json", json.dumps(plain(results), indent=1) + "\n")
    unseen = [e for e in results["scores"] if e["negative_set"] == OTHERS[0]]
    tables = [
        dose_table(results["copies"], "ruler", "copied"),
        dose_table(results["near_misses"], "ruler", "copied"),
        dose_table(unseen, "score", "auc"),
        dose_table(results["maps"], "map", "auroc"),
        mitigation_table(results["mitigations"]),
    ]
    write_text(output / "doses.md", "\n\n".join(filter(None, tables)) + "\n")
    for kind in KINDS:
        dose_sheet(planted, records, groups, kind).savefig(output / f"{kind}.png", dpi=110)
    shown = [e for e in results["copies"] if e["ruler"] == last]
    dose_figure(shown, unseen, SHOWN).savefig(output / "doses.png", dpi=120)
    print("\n\n".join(filter(None, tables)))


if __name__ == "__main__":
    main()
