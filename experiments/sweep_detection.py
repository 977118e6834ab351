"""Detection over T, number of images and seeds, with localisation and controls: every prompt set at several seeds with
one pass each, then the tables and figures.

    python -m experiments.sweep_detection --planted          the bundled model, about 35 minutes on two cores
    python -m experiments.sweep_detection --model_id PATH \\
        --mem examples/sdv1_500_memorized.jsonl --nonmem Gustavosta/Stable-Diffusion-Prompts

T and the numbers of images are read off one generation, so they cost nothing. Options that are not listed here go to
every run of detect_mem.py. A sweep that was cut off goes on where it was.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import eval_mem
from experiments.runs import Command, Runner, is_given, script
from memorization.bundled import PLANTED
from memorization.errors import exit_on_input_error
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder
from memorization.runs.arguments import HelpFormatter, positive_int, seed_int

FALSE_POSITIVE_RATE = 0.03  # of the threshold that is calibrated
PLANTED_NONMEM = (str(PLANTED / "planted_nonmemorized.jsonl"), str(PLANTED / "planted_near_miss.jsonl"))


def make_parser(planted: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    mem, nonmem, seeds = (
        ("planted_mem_groundtruth", PLANTED_NONMEM, [11, 12, 13]) if planted else (None, None, [0, 1, 2])
    )
    add("--planted", action="store_true", help="the bundled model and its prompts; other defaults follow")
    add("--output", type=Path, default=Path("sweep_output"), help="folder of all runs and of the evaluation")
    add("--seeds", type=seed_int, nargs="+", default=seeds, help="gen_seed of each run; nothing may be tuned on them")
    add(
        "--images",
        type=positive_int,
        nargs="+",
        default=[1, 4],
        help="numbers that are compared; the most is generated",
    )
    add("--mem", default=mem, required=not planted, help="set of memorized prompts")
    add("--nonmem", nargs="+", default=nonmem, required=not planted, help="sets of other prompts")
    add("--masks", type=Path, help="folder of true masks, where --mem has none of its own")
    add("--jobs", type=positive_int, default=1, help="runs at a time")
    return parser


def run_name(prompts: str, seed: int) -> str:
    return f"sweep_{Path(prompts).name.removesuffix('.jsonl')}_{seed}"


def rows(output: Path, sets: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Result files of all sets at all seeds."""
    return [str(RunFiles(output, f"{run_name(p, s)}_ours").rows) for s in seeds for p in sets]


def commands(args: argparse.Namespace, with_maps: bool, common: Sequence[str]) -> list[Command]:
    """Detection of every set at every seed, with maps for localisation of the memorized ones."""
    found = []
    for prompts in (args.mem, *args.nonmem):
        maps = ["--store_maps"] if with_maps and prompts == args.mem else []
        for seed in args.seeds:
            head = ("--run_name", run_name(prompts, seed), "--dataset", prompts, "--gen_seed", seed)
            size = ("--num_images_per_prompt", max(args.images), "--output_dir", args.output, "--no-store_img_npz")
            found.append(script("detect_mem", *head, *size, *common, *maps))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    args, common = make_parser(is_given("--planted", argv)).parse_known_args(argv)
    with exit_on_input_error():
        make_folder(args.output, "--output")
        with_maps = args.planted or args.masks is not None
        environment = {"HF_HUB_OFFLINE": "1"} if args.planted else {}
        runner = Runner(args.output, args.jobs, environment)
        runner.work(commands(args, with_maps, common), "detection")
        mem, nonmem = (rows(args.output, sets, args.seeds) for sets in ([args.mem], args.nonmem))
        where = ["--output", str(args.output / "evaluation")]
        images = ["--num_images", *map(str, args.images), "--calibrate", str(FALSE_POSITIVE_RATE)]
        eval_mem.main(["detection", "--mem", *mem, "--nonmem", *nonmem, *images, *where])
        if with_maps:
            masks = [] if args.masks is None else ["--masks", str(args.masks)]
            eval_mem.main(["localisation", *mem, *masks, *where])


if __name__ == "__main__":
    main()
