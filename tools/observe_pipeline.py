"""Measure D with any text-to-image pipeline of diffusers that uses classifier-free guidance: SDXL, SD 3, PixArt, ...

    python tools/observe_pipeline.py --model_id PATH_OR_ID --dataset PROMPTS.jsonl --early_exit 1
    python eval_mem.py detection --mem det_outputs/A_observed.jsonl --nonmem det_outputs/B_observed.jsonl

The pipeline's own loop is observed at its denoiser (docs/models.md). Rows are those of detect_mem.py with D alone, in
det_outputs/RUN_NAME_observed.jsonl, images in images_data/; a run that was cut off goes on. What D is of (noise, v, or
the velocity of flow matching) is in the run's settings as `prediction`; runs of different ones are not compared.
Experimental: nobody has ground truth for these models.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from tqdm import tqdm

from memorization.data.contents import dataset_content
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.errors import exit_on_input_error, first_line, input_errors
from memorization.evaluation.detection import summary
from memorization.files.json_lines import ResultsFile
from memorization.files.layout import RunFiles
from memorization.files.whole import make_folder, save_png
from memorization.identity import CONTENT, content_of_files, names_of
from memorization.models.devices import pick_device, pick_dtype
from memorization.models.observed import Observed, observe_pipeline
from memorization.runs.arguments import HelpFormatter, device_name, file_name, image_count, positive_int, seed_int
from memorization.runs.settings import from_arguments
from memorization.seeds import image_seeds

FLOW = "velocity of flow matching"
WEIGHTS = ("*.safetensors", "*.bin", "*.json", "*.txt", "*.model")  # what decides the numbers of a folder


@dataclass(frozen=True)
class ObservationSettings:
    """What decides the numbers, by the names of the command line."""

    model_id: str
    dataset: str
    gen_seed: int
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float | None
    early_exit: int | None

    def kept(self, pipe: DiffusionPipeline) -> dict[str, object]:
        """The same as it is kept beside the rows, with the contents of model and data set."""
        folder = Path(self.model_id)
        files = sorted(path for kind in WEIGHTS for path in folder.rglob(kind)) if folder.is_dir() else []
        contents = {"model_id": content_of_files(files, folder), "dataset": dataset_content(self.dataset)}
        told = {"pipeline": type(pipe).__name__, "prediction": prediction_of(pipe), "dtype": str(pipe.dtype)}
        return asdict(self) | told | {CONTENT: names_of(contents)}


def prediction_of(pipe: DiffusionPipeline) -> str:
    """What D is of: `epsilon`, `v_prediction` and the like, or the velocity of flow matching."""
    scheduler = pipe.scheduler
    return FLOW if "FlowMatch" in type(scheduler).__name__ else str(scheduler.config.get("prediction_type", "unknown"))


def load_other(model_id: str, device: str, dtype: str) -> DiffusionPipeline:
    """
    Raises:
        ValueError: one line, if it cannot be loaded as a text-to-image pipeline.
    """
    device = pick_device(device)
    loaders: tuple[Any, ...] = (AutoPipelineForText2Image, DiffusionPipeline)
    errors = []
    for loader in loaders:  # the first turns an image-to-image folder into text-to-image, and knows fewer
        try:
            pipe = loader.from_pretrained(model_id, dtype=pick_dtype(dtype, device))
            pipe.set_progress_bar_config(disable=True)
            return pipe.to(device)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            errors.append(first_line(error))
    raise ValueError(f"cannot load {model_id} as a pipeline of diffusers: {errors[-1]}")


def make_row(record: PromptRecord, seeds: Sequence[int], found: Observed) -> dict[str, object]:
    """A row as detect_mem.py writes it, with D alone."""
    head = {"index": record.index, "prompt": record.prompt, "seeds": list(seeds)}
    head |= {"is_memorized": record.is_memorized, "kind": record.kind}
    evals = found.num_evals // len(seeds)
    mean = found.norms.mean().item()
    return head | {"text_noise_norm": found.norms.tolist(), "mean_text_noise_norm": mean, "unet_evals_per_image": evals}


def observe_prompts(
    pipe: DiffusionPipeline,
    records: Sequence[PromptRecord],
    settings: ObservationSettings,
    files: RunFiles,
    results: ResultsFile,
    size: dict[str, int],
) -> None:
    """Every prompt that has no row yet: its images, then its row."""
    for record in tqdm([r for r in records if r.index not in results.done], desc="observe", unit="prompt"):
        seeds = image_seeds(settings.gen_seed, record.index, settings.num_images_per_prompt)
        found = observe_pipeline(
            pipe,
            record.prompt,
            seeds,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            stop_after=settings.early_exit,
            **size,
        )
        results.begin()  # not before: a pipeline that is refused leaves nothing
        for seed, image in zip(seeds, () if found.images is None else found.images, strict=False):
            make_folder(files.images)
            save_png(files.image(record.index, seed), image)
        results.add(make_row(record, seeds, found))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", required=True, help="folder in diffusers' layout or hub id")
    add("--dataset", required=True, help="prompts, as detect_mem.py takes them")
    add("--run_name", type=file_name, default="test", help="names the result files")
    add("--output_dir", type=Path, default=Path("."), help="where the output folders are")
    add("--overwrite", action="store_true", help="replace results of this run name")
    add("--device", type=device_name, default="auto", help="auto (CUDA, MPS, CPU), cuda, cuda:N, mps, cpu")
    add("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"), help="of the weights")
    add("--gen_seed", type=seed_int, default=0, help="image k of prompt i depends on this, i and k")
    add("--num_images_per_prompt", type=image_count, default=4, help="images of each prompt")
    add("--image_length", type=positive_int, help="height and width in pixels; by default the pipeline's own")
    add("--num_inference_steps", type=positive_int, default=50, help="steps of the pipeline's scheduler")
    add("--guidance_scale", type=float, help="by default the pipeline's own")
    add("--early_exit", type=positive_int, metavar="T", help="stop after T steps: D alone, no images")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    settings = from_arguments(ObservationSettings, args)
    files = RunFiles(args.output_dir, f"{args.run_name}_observed")
    size = {} if args.image_length is None else {"height": args.image_length, "width": args.image_length}
    with exit_on_input_error(), input_errors():
        records = load_prompts(settings.dataset)  # looked at before the model is loaded
        pipe = load_other(args.model_id, args.device, args.dtype)
        results = ResultsFile(files.rows, settings.kept(pipe) | size, args.overwrite)
        observe_prompts(pipe, records, settings, files, results, size)
        print(summary(results.rows()))
        print(files.rows)


if __name__ == "__main__":
    main()
