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
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTokenizer

from local_sd_pipeline import DenoiseStep, LocalStableDiffusionPipeline, NoisePrediction
from memorization.bundled import MODEL, ROOT
from memorization.detectors.base import DETECTORS
from memorization.detectors.hessian_map import hessian_map
from memorization.files.whole import write_text
from memorization.gradients import MARGIN, kept_bytes
from memorization.runs.arguments import HelpFormatter
from memorization.tables import Table, format_table
from memorization.trace import Trace
from noise_norms import noise_diff_norm
from optim_utils import descend, first_timestep, optimize_prompt_embeds

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


def make_pipe() -> LocalStableDiffusionPipeline:
    """A UNet of Stable Diffusion v1.4's shape with random weights, and nothing else that takes memory."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280)
        )
    unet.to_empty(device="cpu").eval().requires_grad_(False)
    for weights in unet.parameters():
        weights.uniform_(-0.02, 0.02)
    return LocalStableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=CLIPTokenizer.from_pretrained(MODEL / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler.from_pretrained(MODEL / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_trace(pipe: LocalStableDiffusionPipeline, batch: int) -> Trace:
    """A first step as a generation leaves it, in shape: gradients take the same memory whatever the numbers."""
    latents, uncond, text = (torch.randn(batch, 4, 64, 64) for _ in range(3))
    embeds = (torch.randn(batch, 77, 768), torch.randn(batch, 77, 768))
    t = first_timestep(pipe, STEPS)
    prediction = NoisePrediction((uncond, text), latents, *pipe.noise_scales(t))
    trace = Trace(pipe, embeds, torch.full((batch,), 5), list(range(batch)), STEPS)
    trace.steps[0] = DenoiseStep(0, t, latents, prediction, latents, latents)
    return trace


def make_work(name: str, trace: Trace) -> Callable[[], object]:
    """One go of a method; of those that repeat, as little as shows the peak."""
    pipe, latents, t = trace.pipe, trace.steps[0].latents, trace.steps[0].timestep
    negative, text = trace.embeds
    if name == "hessian_map":
        return lambda: hessian_map(trace, num_probes=2)
    if name == "pe":
        return lambda: optimize_prompt_embeds(pipe, latents, t, text, trace.steps[0].prediction.outputs[0], num_iters=1)
    if name == "noise_descent":

        def loss(x: torch.Tensor, rows: list[int]) -> torch.Tensor:
            return noise_diff_norm(pipe.predict_noise(x, t, (negative[rows], text[rows])).diff())

        return lambda: descend(pipe, latents, loss, torch.optim.AdamW, 0.01, 1, gradients=2)
    return lambda: DETECTORS[name].function(trace)


def measure(name: str, batch: int, chunk: int) -> dict[str, float]:
    """One method on one batch, `chunk` images at a time."""
    pipe = make_pipe()
    trace = make_trace(pipe, batch)
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
        "samples": METHODS[name],
        "seconds": time.perf_counter() - started,
    }


def measure_kept() -> float:
    """Gigabytes that the chunks' estimate takes a sample to keep."""
    pipe = make_pipe()
    return kept_bytes(pipe, torch.zeros(1, 4, 64, 64)) / GIGABYTE


def measure_apart(*what: object) -> dict[str, float]:
    """`measure`, or of "kept" `measure_kept`, in a process of its own."""
    command = [sys.executable, "-m", "experiments.cost.gradient_memory", "--one", *map(str, what)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return json.loads(done.stdout.splitlines()[-1])


def results_table(found: dict) -> Table:
    """Peaks beyond what is loaded, of each method and batch: at once, and one image at a time."""
    rows, runs = [], found["runs"]
    for name, samples in METHODS.items():
        for batch in sorted({r["batch"] for r in runs if r["method"] == name}):
            peaks = {r["chunk"]: r["beyond_gb"] for r in runs if (r["method"], r["batch"]) == (name, batch)}
            cells = [f"{peaks[chunk]:.1f}" if chunk in peaks else "-" for chunk in (batch, 1)]
            rows.append([name, str(batch), *cells, f"{MARGIN * samples * batch * found['kept_gb']:.1f}"])
    headers = ["method", "images", "at once, GB", "one at a time, GB", "estimated for at once, GB"]
    return Table("Peak memory of gradient methods beyond what is loaded", headers, rows)


def kept_results() -> str:
    """Markdown of the results that are kept, as the docs have it."""
    table = results_table(json.loads(RESULTS.read_text(encoding="utf-8")))
    return format_table(table.headers, table.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="images")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="what is measured")
    parser.add_argument("--limit", type=float, default=14, help="gigabytes that a measurement may take")
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, *sizes = args.one
        print(json.dumps(measure_kept() if name == "kept" else measure(name, *map(int, sizes))))
        return
    found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"runs": []}
    if "kept_gb" not in found:
        found |= {"kept_gb": measure_apart("kept"), "margin": MARGIN, "torch": torch.__version__}
    for batch in args.batches:
        for name in args.methods:
            for chunk in sorted({1, batch}):
                add_run(found, name, batch, chunk, args.limit)
    print(results_table(found).markdown())


def add_run(found: dict, name: str, batch: int, chunk: int, limit: float) -> None:
    """Measure what is not known yet and would stay below the limit, and write it at once."""
    known = {(r["method"], r["batch"], r["chunk"]): r for r in found["runs"]}
    single = known.get((name, 1, 1))
    needed = single["loaded_gb"] + chunk * single["beyond_gb"] if single else 0
    if (name, batch, chunk) in known or needed > limit:
        return
    found["runs"].append(measure_apart(name, batch, chunk))
    write_text(RESULTS, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["runs"][-1]), flush=True)


if __name__ == "__main__":
    main()
