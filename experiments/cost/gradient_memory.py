"""Measure the memory that gradient methods take at Stable Diffusion's size, at once and in chunks of one image.

    python -m experiments.cost.gradient_memory                       batches of 1 and 2
    python -m experiments.cost.gradient_memory --batches 1 2 4 --limit 14

A UNet of Stable Diffusion v1.4's shape with random weights, latents of 512 pixels, float32, on the CPU. Every
measurement has a process of its own, and its peak is that of the resident memory beyond what was loaded before. Numbers
go to experiments/cost/gradient_memory.json as they come; what is there already is kept and not measured again. A batch
that would need more than --limit, by what a single image took, is left out.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from experiments.cost.jobs import random_sd14
from gradients import MARGIN, SHARE, kept_bytes
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import ROOT
from memorization.detectors.base import DETECTORS
from memorization.detectors.hessian_map import hessian_map
from memorization.files.whole import write_text
from memorization.observation import make_inputs
from memorization.runs.arguments import HelpFormatter
from memorization.tables import Table
from memorization.trace import Trace
from noise_norms import noise_diff_norm
from optim_utils import descend, first_timestep, optimize_prompt_embeds, predict_uncond

RESULTS = ROOT / "experiments" / "cost" / "gradient_memory.json"
STEPS, GIGABYTE = 50, 2**30
METHODS = {
    "condition_jacobian": 1,
    "token_significance": 1,
    "pe": 1,
    "sharpness": 2,
    "curvature_diff": 2,
    "hessian_map": 2,
    "noise_descent": 2,
}  # to the UNet samples of an image that a gradient goes through; the last is what Han et al. descend


def status(name: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS what is resident, VmHWM its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def make_trace(pipe: LocalStableDiffusionPipeline, batch: int) -> Trace:
    """The first step of a batch, as a generation leaves it; the last one's place is taken by it."""
    inputs = make_inputs(pipe, ["a picture"], [list(range(batch))])
    trace = Trace(pipe, inputs.embeds, inputs.tokens, inputs.seeds, STEPS)
    trace.watch(next(iter(pipe.denoise(inputs.latents, inputs.embeds, STEPS))))
    return trace


def make_work(name: str, trace: Trace) -> Callable[[], object]:
    """One go of a method; of those that repeat, as little as shows the peak."""
    pipe, latents, t = trace.pipe, trace.steps[0].latents, trace.steps[0].timestep
    negative, text = trace.embeds
    if name == "hessian_map":
        return lambda: hessian_map(trace, num_probes=2)
    if name == "pe":
        return lambda: optimize_prompt_embeds(
            pipe, latents, t, text, predict_uncond(pipe, latents, t, negative), num_iters=1
        )
    if name == "noise_descent":

        def loss(x: torch.Tensor, rows: list[int]) -> torch.Tensor:
            return noise_diff_norm(pipe.predict_noise(x, t, (negative[rows], text[rows])).diff())

        return lambda: descend(pipe, latents, loss, torch.optim.AdamW, 0.01, 1, gradients=2)
    return lambda: DETECTORS[name].function(trace)


def measure(name: str, batch: int, chunk: int) -> dict[str, float]:
    """One method on one batch, `chunk` images at a time."""
    pipe = random_sd14()
    first_timestep(pipe, STEPS)
    trace = make_trace(pipe, batch)
    kept = kept_bytes(pipe, trace.steps[0].latents)
    pipe.grad_batch_size = chunk
    work = make_work(name, trace)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from what is resident now
    loaded, started = status("VmRSS"), time.perf_counter()
    work()
    return {
        "method": name,
        "batch": batch,
        "chunk": chunk,
        "loaded_gb": loaded / GIGABYTE,
        "peak_gb": status("VmHWM") / GIGABYTE,
        "beyond_gb": (status("VmHWM") - loaded) / GIGABYTE,
        "estimate_gb": MARGIN * METHODS[name] * kept * min(batch, chunk) / GIGABYTE,
        "seconds": time.perf_counter() - started,
    }


def measure_apart(name: str, batch: int, chunk: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, "-m", "experiments.cost.gradient_memory", "--one", name, str(batch), str(chunk)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def results_table(runs: list[dict]) -> Table:
    """Peaks beyond what is loaded, of each method and batch: at once, and one image at a time."""
    rows = []
    for name in METHODS:
        for batch in sorted({r["batch"] for r in runs if r["method"] == name}):
            found = {r["chunk"]: r for r in runs if (r["method"], r["batch"]) == (name, batch)}
            whole, one = found.get(batch), found.get(1)
            cells = [f"{r['beyond_gb']:.1f}" if r else "-" for r in (whole, one)]
            estimate = f"{(whole or one)['estimate_gb']:.1f}" if whole or one else "-"
            rows.append([name, str(batch), *cells, estimate])
    headers = ["method", "images", "at once, GB", "one at a time, GB", "estimated for at once, GB"]
    return Table("Peak memory of gradient methods beyond what is loaded", headers, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="images")
    parser.add_argument("--limit", type=float, default=14, help="gigabytes that a measurement may take")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, batch, chunk = args.one
        print(json.dumps(measure(name, int(batch), int(chunk))))
        return
    runs = json.loads(RESULTS.read_text(encoding="utf-8"))["runs"] if RESULTS.exists() else []
    for batch in args.batches:
        for name in METHODS:
            for chunk in sorted({1, batch}):
                known = {(r["method"], r["batch"], r["chunk"]): r for r in runs}
                single = known.get((name, 1, 1))
                needed = single["loaded_gb"] + chunk * single["beyond_gb"] if single else 0
                if (name, batch, chunk) not in known and needed <= args.limit:
                    runs.append(measure_apart(name, batch, chunk))
                    about = {"margin": MARGIN, "share": SHARE, "torch": torch.__version__}
                    write_text(RESULTS, json.dumps({"about": about, "runs": runs}, indent=1) + "\n")
                    print(json.dumps(runs[-1]), flush=True)
    print(results_table(runs).markdown())


if __name__ == "__main__":
    main()
