"""Published signals and mitigations under one protocol: detection and localisation with all scores, each mitigation at
five strengths on memorized and on ordinary prompts, caption swap, and an audit of what the mitigations hide.

    python -m experiments.benchmark          the bundled model, two and a quarter hours on two cores
    python -m experiments.benchmark --model_id PATH \\
        --mem sdv1_500_mem_groundtruth --nonmem Gustavosta/Stable-Diffusion-Prompts

Detectors and mitigations are all those that are registered, with --plugin your own as well. Options that are not
listed here go to every run of detect_mem.py and inference_mem.py. A benchmark that was cut off goes on where it was.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from experiments.protocol import THREADS, Benchmark
from experiments.runs import Entry, Runner, is_given, parse_entries, sweep_entries
from memorization.bundled import CLIP, COPY_DESCRIPTOR, PLANTED
from memorization.errors import exit_on_input_error
from memorization.mitigations.base import MITIGATIONS
from memorization.plugins import add_plugin_option, load_plugins
from memorization.runs.arguments import HelpFormatter, device_name, positive_int, seed_int
from memorization.similarity.measure import add_evaluator_options

NOT_ALONE = ("ss",)  # half of PRSS, which is measured


@dataclass(frozen=True)
class Defaults:
    """What a model is measured on unless the command line says otherwise; by its names."""

    jobs: int
    mem: str
    nonmem: tuple[str, ...]
    ordinary: str
    control: str
    prompts: str
    harmless: str
    images: int
    evaluate: str
    environment: dict[str, str] = field(default_factory=dict)


BUNDLED = Defaults(
    jobs=2,
    mem="planted_mem_groundtruth",
    nonmem=(str(PLANTED / "planted_nonmemorized.jsonl"), str(PLANTED / "planted_near_miss.jsonl")),
    ordinary=str(PLANTED / "planted_ordinary.jsonl"),
    control="planted_control_groundtruth",
    prompts="--start 4 --end 28",  # as many verbatim as template
    harmless="--start 16 --end 32",
    images=1,
    evaluate=f"--sscd {COPY_DESCRIPTOR} --reference_model local-dir:{CLIP}",
    environment={"HF_HUB_OFFLINE": "1", THREADS: "1"},  # two runs of one thread beat one of two
)
STABLE_DIFFUSION = Defaults(
    jobs=1,
    mem="sdv1_500_mem_groundtruth",
    nonmem=("Gustavosta/Stable-Diffusion-Prompts",),
    ordinary="random",
    control="none",
    prompts="--end 100",
    harmless="--end 100",
    images=4,
    evaluate="--sscd examples/sscd/sscd_disc_large.torchscript.pt --reference_model ViT-g-14",
)


def make_parser(defaults: Defaults) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--model_id", help="diffusers folder or hub id, instead of the bundled model; other defaults follow")
    add("--num_inference_steps", type=positive_int, default=50, help="DDIM steps")
    add("--output", type=Path, default=Path("benchmark_output"), help="folder of all runs and of the evaluation")
    add("--seed", type=seed_int, default=31, help="gen_seed; nothing may have been tuned on it")
    add("--jobs", default=defaults.jobs, type=positive_int, help="runs at a time")
    add("--mem", default=defaults.mem, help="memorized prompts with training images, *_groundtruth")
    add("--nonmem", default=defaults.nonmem, nargs="+", help="sets of other prompts")
    add("--ordinary", default=defaults.ordinary, help="prompts that are calibrated on, and mitigated without need")
    add("--control", default=defaults.control, help="pictures never trained on, in the layout of --mem, or none")
    add("--detect", default="--num_images_per_prompt 2", help="options of detection, in quotes")
    add("--prompts", default=defaults.prompts, help="options that choose the memorized prompts to mitigate, in quotes")
    add("--harmless", default=defaults.harmless, help="options that choose the ordinary ones, in quotes")
    add("--images", default=defaults.images, type=positive_int, help="images of each of them")
    add(
        "--evaluate",
        default=defaults.evaluate,
        help="options of `eval_mem.py damage` that name what images are measured with, in quotes",
    )
    add(
        "--methods", nargs="+", metavar="NAME:STRENGTH,...", help="instead of all; NAME_be or NAME_prmask with the mask"
    )
    add_plugin_option(parser)
    return parser


def evaluator_options(text: str) -> dict[str, Any]:
    """Arguments of `evaluate` out of options of the command line."""
    parser = argparse.ArgumentParser(prog="--evaluate", add_help=False, allow_abbrev=False)
    add_evaluator_options(parser)
    parser.add_argument("--device", type=device_name, default="cpu")
    return vars(parser.parse_args(shlex.split(text)))


def chosen_entries(methods: Sequence[str] | None, bundled: bool) -> list[Entry]:
    """The mitigations that are named, or every one that is registered."""
    if methods is None:
        return sweep_entries((m for m in MITIGATIONS.values() if m.name not in NOT_ALONE), bundled)
    return [entry for text in methods for entry in parse_entries(text)]


def make_benchmark(args: argparse.Namespace, rest: Sequence[str], environment: Mapping[str, str]) -> Benchmark:
    """The benchmark that a command line asks for.

    Args:
        rest: options of every run.
        environment: variables of every run.
    """
    plugins = [word for path in args.plugin for word in ("--plugin", str(path))]
    model = [] if args.model_id is None else ["--model_id", args.model_id]
    timed = [*model, "--num_inference_steps", str(args.num_inference_steps)]
    return Benchmark(
        output=args.output,
        seed=args.seed,
        mem=args.mem,
        nonmem=args.nonmem,
        ordinary=args.ordinary,
        control=None if args.control == "none" else args.control,
        detect=shlex.split(args.detect),
        prompts=shlex.split(args.prompts),
        harmless=shlex.split(args.harmless),
        images=args.images,
        evaluators=evaluator_options(args.evaluate),
        entries=chosen_entries(args.methods, bundled=args.model_id is None),
        common=[*timed, *plugins, *rest],
        model=model,
        plugins=plugins,
        num_inference_steps=args.num_inference_steps,
        runner=Runner(args.output, args.jobs, environment),
    )


def main(argv: Sequence[str] | None = None) -> None:
    defaults = STABLE_DIFFUSION if is_given("--model_id", argv) else BUNDLED
    args, rest = make_parser(defaults).parse_known_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        load_plugins(args.plugin)
        make_benchmark(args, rest, defaults.environment).run()


if __name__ == "__main__":
    main()
