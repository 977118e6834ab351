"""Seconds per image of every detection score and of given mitigations, each alone, all in one process on one model.

    python -m experiments.cost.time_methods --output seconds.json --methods pe:0.8 prss:1.2 cfg_delay:0.2

A score is timed in a run that ends after the steps it needs and that gives nothing else; rounds are interleaved, and
the median counts. Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.cost.jobs import Jobs
from memorization.bundled import MODEL
from memorization.detectors.base import DETECTORS
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.config import versions
from memorization.files.whole import write_text
from memorization.mitigations.options import MASK_RUN_VERSION
from memorization.models.stable_diffusion import load_pipeline
from memorization.plugins import add_plugin_option, load_plugins
from memorization.runs.arguments import HelpFormatter, positive_int

NO_FILES = {"store_img_png": False, "store_img_npz": False, "store_attn_npz": False}
HORIZONS = (1, 10)
VARIANTS: Mapping[str, Mapping[str, object]] = {"be": {"run_version": MASK_RUN_VERSION}, "prmask": {"pr_mask": True}}

Work = Mapping[str, Callable[[], None]]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model_id", default=str(MODEL), help="diffusers folder or hub id")
    parser.add_argument("--methods", nargs="*", default=[], metavar="NAME:STRENGTH", help="names as in result files")
    parser.add_argument("--num_images", type=positive_int, default=8, help="of each job")
    parser.add_argument("--num_inference_steps", type=positive_int, default=50, help="of a whole generation")
    parser.add_argument("--repeats", type=positive_int, default=2, help="rounds")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    add_plugin_option(parser)
    return parser


def score_jobs(jobs: Jobs) -> Work:
    """What gives each score alone, by name."""
    alone = partial(jobs.detection, run_version="baseline", **NO_FILES)
    found = {f"D, T={t}": partial(alone, early_exit=t) for t in HORIZONS if t < jobs.steps}
    found["D, T=all"] = alone
    found["bright ending"] = partial(jobs.detection, **NO_FILES)
    for name, detector in DETECTORS.items():
        if detector.of_images:
            found[name] = partial(alone, scores=name, num_images_per_prompt=2, end=jobs.num_images // 2)
        elif not (detector.always or detector.needs_base):
            found[name] = partial(alone, scores=name, early_exit=detector.steps)
    return found


def method_job(jobs: Jobs, entry: str) -> Callable[[], None]:
    """A mitigation, NAME:STRENGTH with NAME as in result files: prss_be is prss with the mask."""
    name, _, strength = entry.partition(":")
    method, _, suffix = name.rpartition("_")
    variant = VARIANTS.get(suffix, {})
    method = method if variant else name
    return partial(jobs.mitigation, method=method, strength=float(strength), store_img_npz=False, **variant)


def measure(jobs: Jobs, work: Work, repeats: int) -> dict[str, dict[str, object]]:
    """Median seconds and evaluations per image by name, `repeats` rounds in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    evals: dict[str, float] = {}
    jobs.measure(next(iter(work.values())))  # warms up
    for name, do in tqdm(list(work.items()) * repeats, desc="timing", unit="run"):
        found = jobs.measure(do)
        seconds[name].append(found.seconds / jobs.num_images)
        evals[name] = found.evals
    return {n: {"seconds": statistics.median(s), "all": s, "evals": evals[n]} for n, s in seconds.items()}


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error(), tempfile.TemporaryDirectory() as folder:
        load_plugins(args.plugin)
        with input_errors():
            pipe = load_pipeline(args.model_id)
        jobs = Jobs(pipe, Path(folder) / "runs", args.num_images, args.num_images, args.num_inference_steps)
        work = dict(score_jobs(jobs)) | {"none:0": partial(jobs.mitigation, store_img_npz=False)}
        work |= {entry: method_job(jobs, entry) for entry in args.methods}
        result: dict[str, object] = {"versions": versions(), "threads": torch.get_num_threads()}
        result |= {"images": args.num_images, "jobs": measure(jobs, work, args.repeats)}
        write_text(args.output, json.dumps(result, indent=1) + "\n")
        print(args.output)


if __name__ == "__main__":
    main()
