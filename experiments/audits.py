"""Is an audit right? Audits of models whose memories are known, and of made-up scores.

    python -m experiments.audits                            all four parts
    python -m experiments.audits --parts simulation         minutes

tuned: examples/audit.sh, without the base too and with extraction by contrast with it, by three seeds; which pictures
were repeated is known. bundled: the bundled model on all that was planted, by three seeds. Which captions give their
pictures is told by pixels, apart from the copy descriptor. repetitions: rates and bounds on the bundled world beside
nominal ones, of the audits that `bundled` made. simulation: the same of made-up scores. An audit that is measured is
not made again, one that was cut off goes on where it was, and one that fails leaves the others alone. Numbers go to
experiments/results/audits.json; `python -m tools.write_docs` pastes them.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.audit_repetitions import FIRST_SEED as SCREENS_SEED
from experiments.audit_repetitions import SCREEN_RATES, measure_bounds, measure_screens
from experiments.audit_simulation import CASES, simulate
from experiments.audit_tables import AUDITS, DOSES, RESULTS, TABLES
from experiments.dose_copies import by_pixels, repeats_region
from experiments.dose_curves import groups_of
from experiments.kept import add_result, kept_results
from experiments.protocol import THREADS
from experiments.runs import Command, Runner, make_each, refuse_failed, script
from memorization.audit.attacks import CONTRAST
from memorization.audit.screening import FLAGGED
from memorization.bundled import DOSES_GROUND_TRUTH, PLANTED, ROOT, bundled_name
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import InputError, exit_on_input_error
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder, write_text
from memorization.finished_runs import Run, read_run
from memorization.runs.arguments import HelpFormatter, positive_int

TUNED, BUNDLED, REPETITIONS, SIMULATION = "tuned", "bundled", "repetitions", "simulation"
NUM_SCREENS = 20  # of `repetitions`, and samples of each audit
# Of the audits; nothing was tuned on them. The example was set up on its seed 0.
FIRST_TUNED_SEED, FIRST_SEED = 1, 60
TUNED_HOW = ("--without_base", "--attacks", CONTRAST)
# All captions are generated, so that what the screen misses is known. With 48 controls a rate of 0.05 would take 53 of
# 128 captions above all of them.
HOW = ("--controls", PLANTED / "planted_control_groundtruth", "--num_unflagged", 128, "--fdr", 0.1)
HOW += ("--num_inference_steps", 25)

Cell = dict[str, Any]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    parts = [TUNED, BUNDLED, REPETITIONS, SIMULATION]
    add("--parts", nargs="+", default=parts, choices=parts, help="which")
    add("--seeds", type=positive_int, default=3, help="of `tuned` and `bundled`")
    add("--repetitions", type=positive_int, default=200, help="of each case of `simulation`")
    add("--output", type=Path, default=Path("audits_output"), help="folder of all trainings and audits")
    add("--results", type=Path, default=RESULTS, help="JSON file for the numbers")
    add("--jobs", type=positive_int, default=2, help="audits at a time; two of one thread are faster than one of two")
    add("--threads", type=positive_int, default=1, help="of the CPU for each; weights depend on it by rounding")
    return parser


# What is made


def tuned_command(folder: Path, seed: int) -> Command:
    return [sys.executable, str(ROOT / "examples" / "audit.py"), str(folder), "--seed", str(seed), *TUNED_HOW]


def bundled_command(folder: Path, seed: int) -> Command:
    return script("audit_mem", "--gen_seed", seed, *HOW, "--output", folder)


# What is measured


def measure_tuned(folder: Path, seed: int) -> Cell:
    """Which pictures come back in each audit, whether their captions give them, and what was repeated; then attacks."""
    folder = folder / f"seed_{seed}"
    records = {record.index: record for record in load_prompts(str(folder / "pictures"))}
    found: Cell = {"seed": seed}
    for name in AUDITS:
        back, flagged = returned(read_audit(folder / name)), flagged_captions(folder / name)
        given = given_pictures(read_generated(folder / name), records)
        found[name] = [
            {
                "index": k,
                "repeated": r.repeats > 1,
                "copied": k in given,
                "flagged": k in flagged,
                "returned": k in back,
            }
            for k, r in records.items()
        ]
    attacks = read_audit(folder / TUNED)["attacks"]["attacks"]
    return found | {"attacks": {attack["name"]: of_attack(attack) for attack in attacks}}


def of_attack(attack: Cell) -> Cell:
    """Indices of the pictures that come back by an attack, and what it makes of captions and of controls."""
    return {"returned": [one["index"] for one in attack["returned"]]} | {
        k: attack[k] for k in ("near", "near_controls")
    }


def measure_bundled(folder: Path, seed: int) -> Cell:
    """Every verbatim picture of some doses: whether its caption gives it, by pixels, and what the audit says of it."""
    groups, back = groups_of(DOSES_GROUND_TRUTH), returned(read_audit(folder))
    records = {record.index: record for record in load_prompts(str(DOSES_GROUND_TRUTH))}
    run = read_generated(folder)
    rows, given = {row["index"]: row for row in run.rows}, given_pictures(run, records)
    flagged = flagged_captions(folder)
    chosen = [k for k, group in groups.items() if records[k].kind == "verbatim" and group.dose in DOSES]
    pictures = [
        {"index": k, "dose": groups[k].dose, "copied": k in given}
        | {"flagged": k in flagged, "returned": k in back}
        | {"right": is_right(run, rows, back[k], records[k]) if k in back else None}
        for k in chosen
    ]
    return {"seed": seed, "pictures": pictures}


def read_generated(folder: Path) -> Run:
    """The images of the captions of an audit."""
    return read_run(RunFiles(folder, "generated_ours").rows)


def given_pictures(run: Run, records: Mapping[int, PromptRecord]) -> set[int]:
    """Indices of captions that give their own picture, by pixels, in any of their images."""
    return {row["index"] for row in run.rows if by_pixels(run, row, records[row["index"]]).any()}


def is_right(run: Run, rows: dict[int, Any], one: Cell, record: PromptRecord) -> bool:
    """Whether the image that is said to be a copy of a picture is one by pixels."""
    row = rows[one["prompt_index"]]
    image = run.image(row, row["seeds"].index(one["seed"]))
    return bool(repeats_region(image[None], record)[0])


def read_audit(folder: Path) -> Cell:
    """The numbers of an audit."""
    return json.loads((folder / "audit.json").read_text(encoding="utf-8"))


def returned(audited: Cell) -> dict[int, Cell]:
    """What comes back from captions by an audit, by the index of the picture's record."""
    return {one["index"]: one for one in audited["verdict"]["returned"]}


def flagged_captions(folder: Path) -> set[int]:
    """Indices of captions that the screen of an audit flagged."""
    return {r.index for r in load_prompts(str(folder / "prompts" / "generated.jsonl")) if r.kind == FLAGGED}


# Cells


@dataclass(frozen=True)
class Part:
    """What is made and measured of each seed.

    Attributes:
        command: makes the audits of a seed in a folder.
        measure: reads them.
        first_seed: of the audits.
        how: what the command has besides, by which two measurements are told apart.
    """

    name: str
    command: Callable[[Path, int], Command]
    measure: Callable[[Path, int], Cell]
    first_seed: int
    how: Sequence[str]


PARTS = {
    TUNED: Part(TUNED, tuned_command, measure_tuned, FIRST_TUNED_SEED, TUNED_HOW),
    BUNDLED: Part(BUNDLED, bundled_command, measure_bundled, FIRST_SEED, [str(bundled_name(word)) for word in HOW]),
}


@dataclass(frozen=True)
class Audited:
    """The audits of one seed of a part."""

    part: Part
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.part.name}, seed {self.seed}"

    @property
    def measured(self) -> Path:
        return self.folder / "measured.json"

    def read(self) -> Cell:
        """What was measured.

        Raises:
            InputError: if it was made otherwise.
        """
        found = json.loads(self.measured.read_text(encoding="utf-8"))
        if found.pop("how") != list(self.part.how):
            raise InputError(f"{self.measured} was made otherwise; choose another --output")
        return found

    def make(self, threads: int) -> None:
        """Make and measure it, from where it was cut off."""
        environment = {"HF_HUB_OFFLINE": "1", THREADS: str(threads)}
        runner = Runner(make_folder(self.folder, "--output"), environment=environment)
        runner.work([self.part.command(self.folder, self.seed)], str(self))
        found = self.part.measure(self.folder, self.seed) | {"how": list(self.part.how)}
        write_text(self.measured, json.dumps(found) + "\n")


def make_audits(args: argparse.Namespace) -> list[str]:
    """Every seed of the parts that are wanted; what is measured already is read. Gives what failed.

    Raises:
        InputError: if one was made otherwise, before the work.
    """
    parts = [PARTS[name] for name in PARTS if name in args.parts]
    places = [(part, k, args.output / part.name / str(k)) for k in range(args.seeds) for part in parts]
    cells = [Audited(part, part.first_seed + k, folder) for part, k, folder in places]

    def keep() -> None:
        for part in parts:
            found = [cell.read() for cell in cells if cell.part is part and cell.measured.exists()]
            if found:
                add_result(args.results, part.name, found)

    keep()
    left = [cell for cell in cells if not cell.measured.exists()]
    return make_each(left, lambda cell: cell.make(args.threads), str, keep, "audits", args.jobs)


def measure_repetitions(args: argparse.Namespace) -> dict[str, list[Cell]]:
    """Screens by seeds of their own, and samples of the audits of the bundled model that are there."""
    folders = {seed: args.output / BUNDLED / str(seed) for seed in range(args.seeds)}
    finished = {FIRST_SEED + seed: folder for seed, folder in folders.items() if (folder / "audit.json").exists()}
    seeds = range(SCREENS_SEED, SCREENS_SEED + NUM_SCREENS)
    with tempfile.TemporaryDirectory() as work:
        screens = measure_screens(seeds, SCREEN_RATES, Path(work))
    return {"screens": screens, "bounds": measure_bounds(finished, NUM_SCREENS)}


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        failed = make_audits(args)
        if REPETITIONS in args.parts:
            add_result(args.results, REPETITIONS, measure_repetitions(args))
        if SIMULATION in args.parts:
            add_result(args.results, SIMULATION, simulate(CASES, args.repetitions))
        results = kept_results(args.results)
        print("\n\n".join(filter(None, (make(results) for make in TABLES.values()))))
        refuse_failed(failed)


if __name__ == "__main__":
    main()
