"""Measure every family side by side: stock diffusers against detection in one pass, in one run.

    python -m experiments.cost.families                               tiny models with random weights, of every family
    python -m experiments.cost.families --model_id stabilityai/stable-diffusion-xl-base-1.0 --num_images 4
    python -m experiments.cost.families --sdxl_shape --num_images 1 --num_inference_steps 1 --repeats 1

Of tiny models it is the code around them that is measured: their ratio is one that no real model comes to. Numbers go
to experiments/results/families.json, where what was measured of other models is kept, and from there into
docs/models.md by `python -m tools.write_docs`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from experiments.cost.jobs import Jobs
from experiments.cost.measure_cost import Size, machine, measure_jobs
from experiments.cost.weights import random_sdxl
from experiments.planted_tables import table
from local_sd_pipeline import DenoisingPipeline
from memorization.bundled import ROOT
from memorization.errors import exit_on_input_error, input_errors
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.arguments import HelpFormatter, positive_int
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "families.json"
FLUX_LATENTS = 16  # height of those of the tiny Flux, whose transformer says none
GIB = 2**30


def tiny_models() -> Mapping[str, Callable[[], DiffusionPipeline]]:
    """By name, what makes a tiny model with random weights."""
    sys.path.insert(0, str(ROOT / "tests"))  # `tests` itself may be a package that another one left in site-packages
    from helpers.other_pipelines import make_flux, make_sd3, make_sdxl  # the tables are written without the tests
    from helpers.pipelines import make_pipeline

    return {
        "Stable Diffusion 1, 2, tiny": make_pipeline,
        "SDXL, tiny": make_sdxl,
        "Stable Diffusion 3 with T5, tiny": lambda: make_sd3(has_t5=True),
        "Flux.1 dev, tiny": make_flux,
    }


def pipelines(args: argparse.Namespace, folder: Path) -> Iterator[tuple[str, DenoisingPipeline]]:
    """Name and pipeline of each model, loaded when it is its turn."""
    for name in args.model_id:
        with input_errors():
            yield name, load_pipeline(name, device=args.device)
    if args.sdxl_shape:
        yield "SDXL's shape, random weights", random_sdxl()
    for name, make in () if args.model_id or args.sdxl_shape else tiny_models().items():
        make().save_pretrained(folder / name)
        pipe = load_pipeline(folder / name, device=args.device)
        pipe.default_sample_size = FLUX_LATENTS
        yield name, pipe


def families_table(results: Mapping[str, Any]) -> str:
    """A row for each model."""
    rows = []
    for name, found in results.items():
        stock, detection = found["rows"]
        seconds = [f"{r['seconds'] / found['num_images']:.3f}" for r in (stock, detection)]
        spread = f"{detection['ratio']:.2f} ({min(detection['ratios']):.2f} to {max(detection['ratios']):.2f})"
        evals = [f"{r['evals']:g}" for r in (stock, detection)]
        memory = [f"{r['memory'] / GIB:.2f}" for r in (stock, detection)]
        on = f"{found['machine']['device']}, {found['dtype']}"
        rows.append([name, on, *seconds, spread, *evals, *memory, found["largest_pixel_difference"]])
    headers = ["model", "on", "stock, s an image", "detection, s", "ratio", "stock, evaluations", "detection"]
    headers += ["stock, peak GiB", "detection", "largest difference of a pixel, of 255"]
    return format_table(headers, rows) if rows else ""


def kept_results() -> str:
    return table(families_table, RESULTS)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", nargs="*", default=[], help="models in place of the tiny ones: diffusers folders or hub ids")
    add("--sdxl_shape", action="store_true", help="SDXL with random weights in place of the tiny models, on the CPU")
    add("--device", default="auto", help="where they compute")
    add("--num_images", type=positive_int, default=8, help="of a job")
    add("--batch_size", type=positive_int, default=4, help="images of a call of the UNet or transformer")
    add("--num_inference_steps", type=positive_int, default=20, help="of a generation")
    add("--repeats", type=positive_int, default=5, help="rounds")
    add("--output", type=Path, default=RESULTS, help="JSON file")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    size = Size(args.num_images, args.batch_size, args.num_inference_steps, args.repeats)
    with exit_on_input_error(), tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, pipe in pipelines(args, folder):
            jobs = Jobs(pipe, folder / "run", size.num_images, size.batch_size, size.steps)
            dtype = str(pipe.denoiser.dtype).removeprefix("torch.")
            results[name] = measure_jobs(jobs, jobs.detecting(), size) | {"machine": machine(), "dtype": dtype}
            write_text(args.output, json.dumps(results, indent=1) + "\n")
        print(families_table(results))


if __name__ == "__main__":
    main()
