"""Measure cost side by side: stock diffusers, detection, mitigation; batch sizes, processes, numbers of prompts.

    python experiments/cost/measure_cost.py                          everything, about an hour on two cores
    python experiments/cost/measure_cost.py --only jobs --models planted
    python experiments/cost/measure_cost.py --only jobs --model_id PATH_TO_SD_MODEL --batch_size 16

Numbers go to benchmarks/results.json and, with --write_readme, as tables into the README. What was measured
before and is not asked for again is kept.
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
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from experiments.cost.jobs import PLANTED, Jobs, random_sd14
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.config import versions
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.tables import format_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent

SECTIONS = ("jobs", "batches", "processes", "prompts")
START, END = "<!-- experiments/cost/measure_cost.py writes the tables from here -->", "<!-- to here -->"


def measure_jobs(pipe, folder, num_images, batch_size, steps, repeats):
    """Every job `repeats` times in turn: a dict of medians a job, with ratios to the first of the same round."""
    jobs = Jobs(pipe, folder, num_images, batch_size, steps)
    runs = {name: [] for name, _, _ in jobs.all()}
    pictures = {}
    jobs.measure(jobs.stock)  # warms up
    for _ in tqdm(range(repeats), desc="jobs", unit="round"):
        for name, function, _ in jobs.all():
            runs[name].append(jobs.measure(function))
            if function in (jobs.stock, jobs.detection):
                pictures[name] = jobs.images("stock" if function == jobs.stock else "test_ours").astype(int)
    first = next(iter(runs))
    rows = []
    for name, _, least in jobs.all():
        ratios = [a["seconds"] / b["seconds"] for a, b in zip(runs[name], runs[first], strict=True)]
        medians = {k: statistics.median(r[k] for r in runs[name]) for k in runs[name][0]}
        ratio = {"ratio": statistics.median(ratios), "ratios": ratios}
        rows.append({"job": name, "least_evals": least, **ratio, **medians})
    stock, detected = pictures.values()
    return {
        "rows": rows, "num_images": num_images, "batch_size": batch_size, "steps": steps, "repeats": repeats,
        "largest_pixel_difference": int(np.abs(stock - detected).max()),
    }  # fmt: skip


def measure_batches(pipe, folder, sizes, num_images, steps, repeats):
    """Seconds an image of detection at several batch sizes, in turn."""
    seconds = {size: [] for size in sizes}
    for _ in tqdm(range(repeats), desc="batch sizes", unit="round"):
        for size in sizes:
            jobs = Jobs(pipe, folder, num_images, size, steps)
            seconds[size].append(jobs.measure(jobs.detection)["seconds"] / num_images)
    return [{"batch_size": s, "seconds_per_image": statistics.median(v)} for s, v in seconds.items()]


def script_command(script, processes, *options):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", "29511"]
    return [*launcher, str(ROOT / f"{script}.py"), "--model_id", str(PLANTED / "planted_sd"), *options]


def run_script(command, threads=None):
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


def measure_processes(folder, num_images, steps, repeats):
    """Seconds an image of whole runs of detect_mem.py, less those of a run that finds everything done."""
    options = ["--end", str(num_images), "--num_images_per_prompt", "1", "--num_inference_steps", str(steps)]
    options += ["--batch_size", "4", "--device", "cpu", "--output_dir", str(folder)]
    layouts = [(1, 1), (1, 2), (2, 1)]
    seconds = {layout: [] for layout in layouts}
    for _ in tqdm(range(repeats), desc="processes", unit="round"):
        for processes, threads in layouts:
            shutil.rmtree(folder, ignore_errors=True)
            command = script_command("detect_mem", processes, *options)
            whole, start = (run_script(command, threads)[0] for _ in range(2))
            seconds[processes, threads].append((whole - start) / num_images)
    return [{"processes": p, "threads": t, "seconds_per_image": statistics.median(v)} for (p, t), v in seconds.items()]


def measure_prompts(folder, counts, steps=2):
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


def job_table(found, model):
    """Markdown of one model's jobs."""
    headers = ["job", "seconds an image", "ratio to (a)", "evaluations an image", "least", "peak memory", "written"]
    rows = [
        [r["job"], r["seconds"] / found["num_images"], r["ratio"], f"{r['evals']:g}", r["least_evals"],
         f"{r['memory'] / 2**30:.2f} GiB", f"{r['written'] / 1e6:.2f} MB"]
        for r in found["rows"]
    ]  # fmt: skip
    about = f"{found['num_images']} images in batches of {found['batch_size']}, {found['steps']} steps, "
    about += f"medians of {found['repeats']} rounds; "
    about += f"images of (a) and (b) differ by at most {found['largest_pixel_difference']} of 255"
    return f"{model}: {about}.\n\n{format_table(headers, rows)}"


def tables(results):
    """Markdown of all that was measured."""
    parts = [job_table(found, model) for model, found in results.get("jobs", {}).items()]
    if "batches" in results:
        rows = [[r["batch_size"], r["seconds_per_image"], 1 / r["seconds_per_image"]] for r in results["batches"]]
        parts.append(format_table(["batch size", "seconds an image", "images a second"], rows))
    if "processes" in results:
        rows = [
            [r["processes"], r["threads"], r["seconds_per_image"], 1 / r["seconds_per_image"]]
            for r in results["processes"]
        ]
        parts.append(format_table(["processes", "threads each", "seconds an image", "images a second"], rows))
    if "prompts" in results:
        rows = [[r["script"], r["prompts"], f"{r['memory'] / 2**20:.0f} MiB"] for r in results["prompts"]]
        parts.append(format_table(["script", "prompts", "peak memory"], rows))
    machine = results["machine"]
    parts.append(f"Measured on {machine['device']}, torch {machine['torch']}, diffusers {machine['diffusers']}.")
    return "\n\n".join(parts)


def write_readme(text):
    """Put the tables between the two marks of the README."""
    readme = ROOT / "README.md"
    before, rest = readme.read_text(encoding="utf-8").split(START)
    write_text(readme, f"{before}{START}\n\n{text}\n\n{END}{rest.split(END)[1]}")


def pipelines(args):
    """Name, pipeline and size of the work (images, batch, steps, repeats) of each model to measure."""
    if args.model_id:
        with input_errors():
            pipe = load_pipeline(args.model_id)
        yield args.model_id, pipe, (args.batch_size, args.batch_size, args.num_inference_steps, args.repeats)
        return
    if "planted" in args.models:
        size = (args.batch_size, args.batch_size, args.num_inference_steps, args.repeats)
        yield "The bundled model", load_pipeline(str(PLANTED / "planted_sd")), size
    if "sd14" in args.models:
        yield "A model of SD v1.4's shape with random weights", random_sd14(), (1, 1, 2, args.sd14_repeats)


def machine():
    """What the numbers hold for."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"
    return versions() | {"device": name, "platform": platform.platform()}


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="what to measure")
    parser.add_argument("--models", nargs="+", choices=("planted", "sd14"), default=("planted", "sd14"))
    parser.add_argument("--model_id", help="measure the jobs on this model instead")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sd14_repeats", type=int, default=3)
    parser.add_argument("--prompt_counts", type=int, nargs="+", default=(50, 1000))
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--write_readme", action="store_true", help="write the tables into README.md")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    results["machine"] = machine()
    with exit_on_input_error(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        if "jobs" in args.only:
            for name, pipe, size in pipelines(args):
                results.setdefault("jobs", {})[name] = measure_jobs(pipe, folder, *size)
                write_text(args.output, json.dumps(results, indent=1) + "\n")
        if "batches" in args.only:
            pipe = load_pipeline(str(PLANTED / "planted_sd"))
            results["batches"] = measure_batches(
                pipe, folder, (1, 4, 16), 16, args.num_inference_steps, args.sd14_repeats
            )
        if "processes" in args.only:
            results["processes"] = measure_processes(folder, 16, args.num_inference_steps, 3)
        if "prompts" in args.only:
            results["prompts"] = measure_prompts(folder, args.prompt_counts)
        write_text(args.output, json.dumps(results, indent=1) + "\n")
        print(tables(results))
        if args.write_readme:
            write_readme(tables(results))


if __name__ == "__main__":
    main()
