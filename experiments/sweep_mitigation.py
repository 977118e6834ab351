"""Privacy against utility of every mitigation: the same prompts and seeds at several strengths each, then the trade-off
table and figure.

    python -m experiments.sweep_mitigation --planted          the bundled model, about 45 minutes on two cores
    python -m experiments.sweep_mitigation --model_id PATH --dataset sdv1_500_mem_groundtruth ...

Options that are not listed here go to every run of inference_mem.py. A sweep that was cut off goes on where it was.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

import eval_mem
from experiments.runs import Command, Entry, Runner, is_given, script
from memorization.bundled import CLIP, COPY_DESCRIPTOR
from memorization.errors import exit_on_input_error
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder
from memorization.mitigations.base import PLAIN
from memorization.runs.arguments import HelpFormatter, positive_float, positive_int

TARGETED = ("pe_be", "pe", "prss", "prss_be", "prss_prmask")  # with masks first, which the others read
PR_RATIO = 3  # of PRSS, whose PR takes three times the target of its SS
WORDY = ("rna", "rt", "cwr")
# 14 verbatim and 14 template prompts, two images each, at a seed that nothing was tuned on.
PLANTED_PROMPTS = "--start 2 --end 30 --num_images_per_prompt 2 --gen_seed 11".split()
PLANTED_EVALUATORS = f"--sscd {COPY_DESCRIPTOR} --reference_model local-dir:{CLIP}"
# Two runs of one thread each are faster than one of two.
PLANTED_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def make_parser(planted: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    targets, noise = ([0.5, 0.8, 1.2, 1.8], [0.3, 0.6, 1]) if planted else ([1, 2, 3, 4, 5], [0.1, 0.3, 1])
    add("--planted", action="store_true", help="the bundled model and its prompts; other defaults follow")
    add("--output", type=Path, default=Path("sweep_output"), help="folder of all runs and of the evaluation")
    add("--targets", type=positive_float, nargs="+", default=targets, help="of PE and of PRSS's PR, in magnitudes")
    add("--words", type=positive_int, nargs="+", default=[1, 2, 4], help="added by RNA, RT and CWR")
    add("--noise", type=positive_float, nargs="+", default=noise, help="scales of GNI")
    add("--jobs", type=positive_int, default=2 if planted else 1, help="runs at a time")
    evaluate = PLANTED_EVALUATORS if planted else ""
    add("--evaluate", default=evaluate, help="options of `eval_mem.py mitigation`, in quotes")
    return parser


def entries(targets: Sequence[float], words: Sequence[int], noise: Sequence[float]) -> list[Entry]:
    """What is compared."""
    found = [
        Entry(name, round(target / PR_RATIO, 3) if name.startswith("prss") else target)
        for target in targets
        for name in TARGETED
    ]
    found += [Entry(name, count) for count in words for name in WORDY]
    return [*found, *(Entry("gni", scale) for scale in noise)]


def command(entry: Entry, output: Path, common: Sequence[str]) -> Command:
    name = "sweep_plain" if entry.name == PLAIN else entry.run_name("sweep")
    where = ("--output_dir", output, "--no-store_img_npz")
    return script("inference_mem", "--run_name", name, *where, *common, *entry.options)


def main(argv: Sequence[str] | None = None) -> None:
    args, common = make_parser(is_given("--planted", argv)).parse_known_args(argv)
    with exit_on_input_error():
        make_folder(args.output, "--output")
        runner = Runner(args.output, args.jobs, PLANTED_ENVIRONMENT if args.planted else {})
        common = [*(PLANTED_PROMPTS if args.planted else ()), *common]
        first, *others = entries(args.targets, args.words, args.noise)
        runner.work([command(first, args.output, common)], "masks")
        runner.work([command(e, args.output, common) for e in (Entry(PLAIN), *others)], "mitigation")
        runs = sorted(RunFiles(args.output, "").rows.parent.glob("sweep_*_mitigation.jsonl"))
        where = ["--output", str(args.output / "evaluation"), *shlex.split(args.evaluate)]
        eval_mem.main(["mitigation", *map(str, runs), *where])


if __name__ == "__main__":
    main()
