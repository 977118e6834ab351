"""Does a score know that THIS image is memorized, or only that the prompt is special?

    python experiments/caption_swap.py --output caption_swap.md

Each prompt is scored on its own training image and on another prompt's of the same kind, both with the same noise at
the same timestep. AUC of own against other is 0.5 for a score that reads the prompt alone. No paper's evaluation of
these scores has this test; for image-level scores Lopez Amado et al. (2026) made it with other captions.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from local_sd_pipeline import DenoiseStep, DenoisingPipeline
from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.detectors.base import DETECTORS
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.evaluation.detection_metrics import auc_measure
from memorization.evaluation.statistics import Measure, interval_text
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.runs.arguments import HelpFormatter
from memorization.seeds import image_seeds
from memorization.tables import format_table
from memorization.trace import Trace
from noise_norms import noise_diff_norm

SCORES = ("sharpness", "curvature_diff", "noise_diff_map")  # those that look at one timestep


@dataclass
class Swapped:
    """Scores of each prompt on its own image and on another's, one array (noises,) per prompt."""

    own: list[np.ndarray] = field(default_factory=list)
    other: list[np.ndarray] = field(default_factory=list)

    def auc(self) -> Measure:
        """AUC of own against other and its 95 % interval over prompts, which are in both classes."""
        own, other = np.stack(self.own), np.stack(self.other)
        scores = np.concatenate([own.ravel(), other.ravel()])
        labels = np.arange(len(scores)) < own.size
        prompts = np.tile(np.repeat(np.arange(len(own)), own.shape[1]), 2)
        return auc_measure(scores, labels, prompts)


Scores = dict[tuple[str, int], Swapped]  # by name of a score and timestep


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--dataset", default=GROUND_TRUTH.name, help="*_groundtruth folder")
    add("--model_id", default=str(MODEL), help="diffusers folder or hub id")
    add("--end", type=int, default=500, help="one past the last prompt")
    add("--gen_seed", type=int, default=0, help="of the noises")
    add("--timesteps", type=int, nargs="+", default=(981, 741, 501, 261, 21), help="that are looked at")
    add("--num_images", type=int, default=2, help="noises per image")
    add("--output", type=Path, help="Markdown file for the table")
    return parser


def scores_at(
    pipe: DenoisingPipeline, images: Sequence[torch.Tensor], t: int, prompt: str, seeds: Sequence[int]
) -> dict[str, np.ndarray]:
    """D and the detectors' scores on some images under the same noises, by name (images, noises).

    Args:
        images: latents of one image each, (1, channels, height, width).
        t: timestep.
        seeds: of the noises.
    """
    noise = torch.cat([torch.randn(images[0].shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
    latents = torch.cat([i.expand(len(seeds), -1, -1, -1) for i in images])
    alpha = pipe.scheduler.alphas_cumprod[t]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * torch.cat([noise] * len(images)).to(latents)
    trace = trace_of(pipe, noisy, t, prompt, [*seeds] * len(images))
    found = {"D": noise_diff_norm(trace.last.noise_diff)}
    for name in SCORES:
        found |= DETECTORS[name].function(trace)
    return {name: values.double().cpu().numpy().reshape(len(images), -1) for name, values in found.items()}


@torch.no_grad()
def trace_of(pipe: DenoisingPipeline, noisy: torch.Tensor, t: int, prompt: str, seeds: Sequence[int]) -> Trace:
    """What a generation of a single step at timestep `t` would leave; latents (images, channels, height, width)."""
    text, negative = (e.expand(len(seeds), -1, -1) for e in pipe.encode([prompt]))
    tokens = torch.full((len(seeds),), pipe.end_token(prompt))
    trace = Trace(pipe, (negative, text), tokens, seeds, num_inference_steps=1)
    prediction = pipe.predict_noise(noisy, t, (negative, text))
    trace.watch(DenoiseStep(0, t, noisy, prediction, noise_pred=prediction.outputs[1], next_latents=noisy))
    return trace


def partners(records: Sequence[PromptRecord]) -> dict[int, PromptRecord]:
    """For each record's index another record of its kind, the next in order.

    Raises:
        InputError: if a kind has one record only.
    """
    following = {}
    for kind in {r.kind for r in records}:
        group = [r for r in records if r.kind == kind]
        if len(group) < 2:
            raise InputError(f"kind {kind} has one prompt; there is no other image to swap with")
        following |= {r.index: other for r, other in zip(group, [*group[1:], group[0]], strict=True)}
    return following


def measure(
    pipe: DenoisingPipeline,
    records: Sequence[PromptRecord],
    timesteps: Sequence[int],
    gen_seed: int,
    num_images: int,
) -> Scores:
    """Scores of own and of swapped images of every prompt, under `num_images` noises each."""
    latents = {r.index: pipe.encode_images([read_image(r.reference_images[0])]) for r in records}
    other = partners(records)
    found: Scores = {}
    for record in tqdm(records, desc="caption swap", unit="prompt"):
        seeds = image_seeds(gen_seed, record.index, num_images)
        images = [latents[record.index], latents[other[record.index].index]]
        for t in timesteps:
            for name, (on_own, on_other) in scores_at(pipe, images, t, record.prompt, seeds).items():
                swapped = found.setdefault((name, t), Swapped())
                swapped.own.append(on_own)
                swapped.other.append(on_other)
    return found


def table(found: Mapping[tuple[str, int], Swapped], timesteps: Sequence[int]) -> str:
    """Markdown: AUC of own against other image, one row per score."""
    rows = []
    for name in dict.fromkeys(name for name, _ in found):
        rows.append([name, *(interval_text(found[name, t].auc()) for t in timesteps)])
    return format_table(["score", *(f"t = {t}" for t in timesteps)], rows)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        records = [r for r in load_prompts(args.dataset, 0, args.end) if r.reference_images]
        if not records:
            raise InputError(f"{args.dataset} has no training images; give a *_groundtruth folder")
        with input_errors():
            pipe = load_pipeline(args.model_id)
        text = table(measure(pipe, records, args.timesteps, args.gen_seed, args.num_images), args.timesteps)
        print(text)
        if args.output is not None:
            write_text(args.output, text + "\n")


if __name__ == "__main__":
    main()
