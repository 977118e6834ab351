"""Seconds an image of every detection score and of given mitigations, each alone, all in one process on one model.

    python experiments/cost/time_methods.py --output seconds.json --methods pe:0.8 prss:1.2 cfg_delay:0.2

A score is timed in a run that ends after the steps it needs and that gives nothing else; rounds are interleaved, and
the median counts. Leave the machine alone meanwhile.
"""

import argparse
import json
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from memorization.detectors.registry import MOTION, SIGNALS, TILED
from tqdm import tqdm

from experiments.cost.jobs import PLANTED, Jobs
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.config import versions
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline

SCORES_ALONE = ("--no-store_img_png", "--no-store_img_npz", "--no-store_attn_npz")
HORIZONS = (1, 10)
MASKS = {"be": ("--run_version", "ours_A"), "prmask": ("--pr_mask",)}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_id", default=str(PLANTED / "planted_sd"))
    parser.add_argument("--methods", nargs="*", default=[], metavar="NAME:STRENGTH", help="names as in result files")
    parser.add_argument("--num_images", type=int, default=8)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    return parser


def score_jobs(jobs):
    """Name and function of what gives each score alone."""
    baseline, found = ("--run_version", "baseline", *SCORES_ALONE), {}
    for t in HORIZONS:
        if t < jobs.steps:
            found[f"D, T={t}"] = partial(jobs.detection, *baseline, "--early_exit", str(t))
    found["D, T=all"] = partial(jobs.detection, *baseline)
    found["bright ending"] = partial(jobs.detection, *SCORES_ALONE)
    for name, signal in SIGNALS.items():
        early = ("--early_exit", str(signal.steps)) if signal.steps else ()
        found[name] = partial(jobs.detection, *baseline, "--scores", name, *early)
    found[MOTION] = partial(jobs.detection, *baseline, "--scores", MOTION)
    pairs = ("--num_images_per_prompt", "2", "--end", str(jobs.num_images // 2))
    found[TILED] = partial(jobs.detection, *baseline, "--scores", TILED, *pairs)
    return found


def method_job(jobs, entry):
    """Function of a mitigation, NAME:STRENGTH with NAME as in result files: prss_be is prss with the mask."""
    name, _, strength = entry.partition(":")
    method, _, suffix = name.rpartition("_")
    method, more = (method, MASKS[suffix]) if suffix in MASKS else (name, ())
    return partial(jobs.mitigation, "--method", method, "--strength", strength, *more, "--no-store_img_npz")


def measure(jobs, functions, repeats):
    """Median seconds and evaluations an image by name, `repeats` rounds in turn."""
    seconds, evals = {name: [] for name in functions}, {}
    jobs.measure(next(iter(functions.values())))  # warms up
    for name, function in tqdm(list(functions.items()) * repeats, desc="timing", unit="run"):
        found = jobs.measure(function)
        seconds[name].append(found["seconds"] / jobs.num_images)
        evals[name] = found["evals"]
    return {n: {"seconds": statistics.median(s), "all": s, "evals": evals[n]} for n, s in seconds.items()}


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error(), tempfile.TemporaryDirectory() as folder:
        with input_errors():
            pipe = load_pipeline(args.model_id)
        jobs = Jobs(pipe, Path(folder) / "runs", args.num_images, args.num_images, args.num_inference_steps)
        functions = score_jobs(jobs) | {"none:0": partial(jobs.mitigation, "--no-store_img_npz")}
        functions |= {entry: method_job(jobs, entry) for entry in args.methods}
        result = {"versions": versions(), "threads": torch.get_num_threads(), "images": args.num_images}
        result["jobs"] = measure(jobs, functions, args.repeats)
        write_text(args.output, json.dumps(result, indent=1) + "\n")
        print(args.output)


if __name__ == "__main__":
    main()
