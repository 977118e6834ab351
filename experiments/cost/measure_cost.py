"""Measure cost side by side: stock diffusers, detection, mitigation; batch sizes, processes, numbers of prompts.

    python -m experiments.cost.measure_cost                          everything, about an hour on two cores
    python -m experiments.cost.measure_cost --only jobs --models planted
    python -m experiments.cost.measure_cost --only jobs --model_id PATH_TO_SD_MODEL --batch_size 16

Numbers go to experiments/cost/results.json, and from there into docs/scale.md by `python -m tools.write_docs`. What was
measured before and is not asked for again is kept.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from experiments import published
from experiments.cost.jobs import Job, Jobs, Measured, random_sd14
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import MODEL, ROOT
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.config import versions
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.arguments import HelpFormatter, positive_int

SECTIONS = ("jobs", "batches", "processes", "prompts")
LAYOUTS = ((1, 1), (1, 2), (2, 1))  # processes, threads of each
BATCH_SIZES, NUM_IMAGES, LAYOUT_REPEATS = (1, 4, 16), 16, 3


@dataclass(frozen=True)
class Size:
    """How much work is measured."""

    num_images: int
    batch_size: int
    steps: int
    repeats: int


def measure_jobs(jobs: Jobs, todo: Sequence[Job], size: Size) -> dict[str, Any]:
    """Every job `repeats` times in turn: medians, with ratios to the first job of the same round.

    Args:
        todo: stock diffusers and detection first.
    """
    runs: dict[str, list[Measured]] = {job.name: [] for job in todo}
    pictures: dict[str, np.ndarray] = {}
    jobs.measure(jobs.stock)  # warms up
    for _ in tqdm(range(size.repeats), desc="jobs", unit="round"):
        for place, job in enumerate(todo):
            runs[job.name].append(jobs.measure(job.do))
            if place < 2:  # stock diffusers, and detection
                pictures[job.name] = jobs.images("test_ours" if place else "stock").astype(int)
    stock, detected = pictures.values()
    return {
        "rows": [job_row(job, runs[job.name], runs[todo[0].name]) for job in todo],
        **asdict(size),
        "largest_pixel_difference": int(np.abs(stock - detected).max()),
    }


def job_row(job: Job, own: Sequence[Measured], first: Sequence[Measured]) -> dict[str, Any]:
    ratios = [a.seconds / b.seconds for a, b in zip(own, first, strict=True)]
    return {
        "job": job.name,
        "least_evals": job.least_evals,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "seconds": statistics.median(m.seconds for m in own),
        "evals": statistics.median(m.evals for m in own),
        "memory": statistics.median(m.memory for m in own if m.memory is not None),
        "written": statistics.median(m.written for m in own),
    }


def measure_batches(pipe: LocalStableDiffusionPipeline, folder: Path, steps: int, repeats: int) -> list[dict[str, Any]]:
    """Seconds per image of detection at several batch sizes, in turn."""
    seconds: dict[int, list[float]] = {size: [] for size in BATCH_SIZES}
    for _ in tqdm(range(repeats), desc="batch sizes", unit="round"):
        for size in BATCH_SIZES:
            jobs = Jobs(pipe, folder, NUM_IMAGES, size, steps)
            seconds[size].append(jobs.measure(jobs.detection).seconds / NUM_IMAGES)
    return [{"batch_size": s, "seconds_per_image": statistics.median(v)} for s, v in seconds.items()]


def script_command(script: str, processes: int, *options: str) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29511"]
    return [*launcher, str(ROOT / f"{script}.py"), "--model_id", str(MODEL), *options]


def run_script(command: Sequence[str], threads: int | None = None) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    started = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            log.seek(0)
            raise SystemExit(log.read().decode(errors="replace")[-2000:])
    return time.perf_counter() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_processes(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Seconds per image of whole runs of detect_mem.py, less those of a run that finds everything done."""
    options = ["--end", str(NUM_IMAGES), "--num_images_per_prompt", "1", "--num_inference_steps", str(steps)]
    options += ["--batch_size", "4", "--device", "cpu", "--output_dir", str(folder)]
    seconds: dict[tuple[int, int], list[float]] = {layout: [] for layout in LAYOUTS}
    for _ in tqdm(range(LAYOUT_REPEATS), desc="processes", unit="round"):
        for processes, threads in LAYOUTS:
            shutil.rmtree(folder, ignore_errors=True)
            command = script_command("detect_mem", processes, *options)
            whole, start = (run_script(command, threads)[0] for _ in range(2))
            seconds[processes, threads].append((whole - start) / NUM_IMAGES)
    return [{"processes": p, "threads": t, "seconds_per_image": statistics.median(v)} for (p, t), v in seconds.items()]


def measure_prompts(folder: Path, counts: Sequence[int], steps: int = 2) -> list[dict[str, Any]]:
    """Peak memory of both scripts by number of prompts."""
    scripts = {"detect_mem": ["--store_maps"], "inference_mem": ["--run_version", "ours_A", "--optim_target_loss", "3"]}
    rows = []
    for script, options in scripts.items():
        for count in tqdm(counts, desc=script, unit="run"):
            shutil.rmtree(folder, ignore_errors=True)
            common = ["--dataset", "random", "--end", str(count), "--num_images_per_prompt", "1"]
            common += ["--num_inference_steps", str(steps), "--output_dir", str(folder)]
            memory = run_script(script_command(script, 1, *common, *options))[1]
            rows.append({"script": script, "prompts": count, "memory": memory})
    return rows


def pipelines(args: argparse.Namespace) -> Iterator[tuple[str, LocalStableDiffusionPipeline, Size]]:
    """Name, pipeline and size of the work of each model to measure."""
    size = Size(args.batch_size, args.batch_size, args.num_inference_steps, args.repeats)
    if args.model_id:
        with input_errors():
            yield args.model_id, load_pipeline(args.model_id), size
        return
    if "planted" in args.models:
        yield "The bundled model", load_pipeline(MODEL), size
    if "sd14" in args.models:
        yield "A model of SD v1.4's shape with random weights", random_sd14(), Size(1, 1, 2, args.sd14_repeats)


def machine() -> dict[str, Any]:
    """What the numbers hold for."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return versions() | {"device": name, "platform": platform.platform()}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--models", nargs="+", choices=("planted", "sd14"), default=("planted", "sd14"), help="of jobs")
    parser.add_argument("--model_id", help="measure the jobs on this model instead")
    parser.add_argument("--batch_size", type=positive_int, default=16, help="images of a job, and of a UNet call")
    parser.add_argument("--num_inference_steps", type=positive_int, default=50, help="DDIM steps")
    parser.add_argument("--repeats", type=positive_int, default=5, help="rounds of the jobs")
    parser.add_argument("--sd14_repeats", type=positive_int, default=3, help="rounds of what takes long")
    parser.add_argument("--prompt_counts", type=positive_int, nargs="+", default=(50, 1000), help="of peak memory")
    parser.add_argument("--output", type=Path, default=published.COST, help="JSON file")
    return parser


def measure(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Any]]:
    """What was asked for, by its place in the results, each when it is measured."""
    if "jobs" in args.only:
        found = {}
        for name, pipe, size in pipelines(args):
            jobs = Jobs(pipe, folder, size.num_images, size.batch_size, size.steps)
            found[name] = measure_jobs(jobs, jobs.all(), size)
            yield "jobs", dict(found)
    if "batches" in args.only:
        yield "batches", measure_batches(load_pipeline(MODEL), folder, args.num_inference_steps, args.sd14_repeats)
    if "processes" in args.only:
        yield "processes", measure_processes(folder, args.num_inference_steps)
    if "prompts" in args.only:
        yield "prompts", measure_prompts(folder, args.prompt_counts)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results["machine"] = machine()
    with exit_on_input_error(), tempfile.TemporaryDirectory() as temporary:
        for section, found in measure(args, Path(temporary) / "run"):
            results[section] = (results.get(section, {}) | found) if section == "jobs" else found
            write_text(args.output, json.dumps(results, indent=1) + "\n")
        print(published.cost(results))


if __name__ == "__main__":
    main()
