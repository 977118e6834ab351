"""Measure what the bundled model memorizes and where the published signals hold on it.

    python planted/making/check_model.py --gen_seed 100 --output planted/planted_report.json

Every number in the docs' page on the bundled model comes from this script. It generates images for the
three prompt files and compares them with the planted images and true masks, so it needs no reference
model. Tuning was done with --gen_seed 0; the reported seeds were not looked at before.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from attn_utils import cross_attention_layers, down_cross_layers, shuffle_mask
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import GROUND_TRUTH, MODEL, PLANTED
from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.evaluation.candidate_maps import layer_name
from memorization.evaluation.curves import rank_auc
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Observation, Recorded, make_inputs, observe_batches
from memorization.runs.arguments import HelpFormatter
from memorization.seeds import image_seeds
from memorization.similarity.pixels import similarity_to_references
from memorization.tables import format_table
from noise_norms import leading_mean, norms_from_maps
from planted.making.probe import probe_accuracy, train_probe

COPY_RMSE = 0.12  # root mean squared pixel error in [0, 1] below which a region counts as copied
HORIZONS = {"T=1": 1, "T=10": 10, "T=50": None}
BATCH_SIZE = 16
KINDS, OTHERS = ("verbatim", "template"), ("nonmemorized", "near_miss")
BRIGHT_ENDING = "bright ending (mean of the finest down block)"

Report = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How images are made, by the names of the command line."""

    gen_seed: int
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Generated:
    """A prompt file and what was generated for it: `count` images per prompt, in the order of the prompts.

    Attributes:
        images: uint8 (images, height, width, 3).
        observed: noise-difference maps, bright-ending mask and end-token attention of every layer.
    """

    records: Sequence[PromptRecord]
    count: int
    images: np.ndarray
    observed: Observation

    @property
    def per_prompt(self) -> np.ndarray:
        """Images by prompt, (prompts, count, height, width, 3)."""
        return self.images.reshape(len(self.records), self.count, *self.images.shape[1:])

    def images_of(self, kind: str) -> list[int]:
        """Which images are of a kind of prompt."""
        return [k * self.count + j for k, r in enumerate(self.records) if r.kind == kind for j in range(self.count)]


def generate(pipe: LocalStableDiffusionPipeline, records: Sequence[PromptRecord], settings: Settings) -> Generated:
    """Images, squared-difference maps and end-token attention of every layer for all prompts."""
    recorded = Recorded(layers=down_cross_layers(pipe.unet), map_layers=cross_attention_layers(pipe.unet))
    count, images, observed = settings.num_images_per_prompt, [], []
    per_call = max(1, BATCH_SIZE // count)
    for start in tqdm(range(0, len(records), per_call), desc="generate"):
        batch = records[start : start + per_call]
        seeds = [image_seeds(settings.gen_seed, r.index, count) for r in batch]
        one = observe_batches(
            pipe,
            make_inputs(pipe, [r.prompt for r in batch], seeds),
            max(BATCH_SIZE, count),
            recorded,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )
        images.append(pipe.decode(one.latents))
        observed.append(one)
    return Generated(records, count, np.concatenate(images), Observation.join(observed))


def errors_to(record: PromptRecord, images: np.ndarray) -> np.ndarray:
    """Root mean squared error in [0, 1] to a prompt's first training image, over its true mask; per image."""
    first = replace(record, reference_images=record.reference_images[:1])
    return 1 - np.array(similarity_to_references(images, first))


def check_copies(memorized: Generated, others: Generated) -> Report:
    """Copy rates of planted prompts, false copies of the others, and how much free regions vary."""
    pairs = zip(memorized.records, memorized.per_prompt, strict=True)
    errors = np.stack([errors_to(record, images) for record, images in pairs])
    verbatim = np.array([r.kind == "verbatim" for r in memorized.records])
    false = false_errors(memorized, others)
    fixed, free = variation_between_seeds(memorized)
    images = memorized.images
    truth = [read_image(r.reference_images[0]) for r in memorized.records]
    return {
        "threshold_rmse": COPY_RMSE,
        "verbatim_copied": float((errors[verbatim] < COPY_RMSE).mean()),
        "template_region_copied": float((errors[~verbatim] < COPY_RMSE).mean()),
        "verbatim_median_rmse": float(np.median(errors[verbatim])),
        "template_median_rmse": float(np.median(errors[~verbatim])),
        "nonmemorized_smallest_median_rmse": float(np.median(false.min(0))),
        "false_copies_nonmemorized": false_copies(false),
        "free_over_fixed_mse_between_seeds": free / fixed,
        "free_over_fixed_rmse_between_seeds": float(np.sqrt(free / fixed)),
        "saturated_pixels": saturated(images),
        "saturated_pixels_in_training_images": float(np.mean([saturated(t) for t in truth])),
    }


def false_errors(memorized: Generated, others: Generated) -> np.ndarray:
    """Errors of images of other prompts to each planted image, (planted prompts, images)."""
    return np.stack([errors_to(record, others.images) for record in memorized.records])


def false_copies(errors: np.ndarray) -> float:
    """Share of images that are a copy of any planted one."""
    return float((errors < COPY_RMSE).any(0).mean())


def saturated(images: np.ndarray) -> float:
    return float(((images == 0) | (images == 255)).mean())


def variation_between_seeds(memorized: Generated) -> tuple[float, float]:
    """Mean squared differences of two images of a template, in its fixed and in its free region."""
    fixed, free = [], []
    for record, images in zip(memorized.records, memorized.per_prompt, strict=True):
        if record.kind == "template":
            mask = read_mask(record.mask_path)
            for a, b in combinations(images.astype(np.float32) / 255, 2):
                squares = (a - b) ** 2
                fixed.append(squares[mask].mean())
                free.append(squares[~mask].mean())
    return float(np.mean(fixed)), float(np.mean(free))


def check_probe(others: Generated) -> Report:
    """How often images of shapes that were never trained on show the asked shape and colour."""
    shapes = others.images_of("shapes")
    prompts = [others.records[k // others.count].prompt for k in shapes]
    return probe_accuracy(train_probe(), [others.images[k] for k in shapes], prompts)


def detection_scores(observed: Observation) -> dict[str, np.ndarray]:
    """Scores per image, (images,) each; higher = memorized."""
    maps, mask = observed.diff_maps, observed.mask
    assert mask is not None
    norms = {
        "D": norms_from_maps(maps),
        "LD": norms_from_maps(maps, mask),
        "LD shuffled": norms_from_maps(maps, shuffle_mask(mask, range(len(mask)))),
        "LD rms": norms_from_maps(maps, mask, "rms"),
    }
    scores = {f"{name} {h}": leading_mean(v, t).numpy() for name, v in norms.items() for h, t in HORIZONS.items()}
    scores["end-token attention (bright ending)"] = mask.mean((1, 2, 3)).numpy()
    layers = {f"end-token attention, {n}": c.end.mean((1, 2)).numpy() for n, c in observed.columns.items()}
    return scores | layers


def check_detection(runs: Mapping[str, Generated]) -> dict[str, dict]:
    """AUC per image and per prompt of every score, verbatim and template prompts against the unseen ones."""
    scores = {name: detection_scores(run.observed) for name, run in runs.items()}
    kinds = np.array([r.kind for r in runs["memorized"].records])
    count = runs["memorized"].count
    report = {}
    for score in scores["memorized"]:
        values = {name: found[score].reshape(-1, count) for name, found in scores.items()}
        memorized = {kind: values["memorized"][kinds == kind] for kind in KINDS}
        report[score] = score_report(memorized, {name: values[name] for name in OTHERS})
    return report


def score_report(memorized: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict:
    """What one score is worth; scores by kind, (prompts, images of a prompt) each."""
    row: dict = {}
    for name, unseen in others.items():
        for kind, planted in memorized.items():
            row[f"{kind} vs {name}, per image"] = rank_auc(planted.ravel(), unseen.ravel())
            row[f"{kind} vs {name}, per prompt"] = rank_auc(planted.mean(1), unseen.mean(1))
    return row | {"means": {name: float(values.mean()) for name, values in {**memorized, **others}.items()}}


def pixel_auroc(maps: torch.Tensor, masks: Sequence[np.ndarray]) -> float:
    """Mean over images of the AUROC of maps (images, height, width) against true masks, one per image."""
    size, values = maps.shape[-2:], []
    for one, mask in zip(maps, masks, strict=True):
        inside = F.adaptive_avg_pool2d(torch.tensor(mask)[None, None].float(), size)[0, 0] > 0.5
        values.append(rank_auc(one[inside].numpy(), one[~inside].numpy()))
    return float(np.mean(values))


def check_localisation(memorized: Generated) -> Report:
    """Pixel AUROC against the true mask on template prompts, per layer and for the free maps."""
    rows, observed = memorized.images_of("template"), memorized.observed
    assert observed.mask is not None
    masks = [read_mask(memorized.records[k // memorized.count].mask_path) for k in rows]
    table = {name: pixel_auroc(columns.end[rows], masks) for name, columns in observed.columns.items()}
    bright = observed.mask[rows]
    table[BRIGHT_ENDING] = pixel_auroc(bright[:, 0], masks)
    for name, steps in HORIZONS.items():
        table[f"noise_diff^2 map {name}"] = pixel_auroc(observed.diff_maps[rows, :steps].mean(1), masks)
    table["noise_diff^2 map last step"] = pixel_auroc(observed.diff_maps[rows, -1], masks)
    table["bright ending, shuffled"] = pixel_auroc(shuffle_mask(bright, range(len(bright)))[:, 0], masks)
    return table


def tables(report: Mapping) -> str:
    """The report as Markdown: what is copied, AUC per image of every score, pixel AUROC of every map."""
    facts = [[k.replace("_", " "), v] for k, v in report["copies"].items()]
    names = {"all": "shape and color"}
    facts += [[f"asked {names.get(k, k)} shown", v] for k, v in report["probe"].items()]
    pairs = [f"{kind} vs {other}" for other in OTHERS for kind in KINDS]
    scores = [[layer_name(n), *(row[f"{p}, per image"] for p in pairs)] for n, row in report["detection_auc"].items()]
    places = [[layer_name(name), v] for name, v in report["localisation_pixel_auroc"].items()]
    parts = [
        format_table(["measure", "value"], facts),
        format_table(["AUC per image of", *(p.replace("_", " ") for p in pairs)], scores),
        format_table(["map", "pixel AUROC, templates"], places),
    ]
    return "\n\n".join(parts)


def save_sheet(path: Path, runs: Mapping[str, Generated]) -> None:
    """Every fourth prompt in a row, for two images of each of the prompt files."""
    rows = [run.images[j :: run.count][::4] for run in runs.values() for j in range(min(2, run.count))]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    size = (sheet.shape[1] * 2, sheet.shape[0] * 2)
    Image.fromarray(sheet).resize(size, Image.Resampling.NEAREST).save(path)


def make_report(runs: Mapping[str, Generated], settings: Settings) -> dict:
    memorized = runs["memorized"]
    copies = check_copies(memorized, runs["nonmemorized"])
    copies["false_copies_near_miss"] = false_copies(false_errors(memorized, runs["near_miss"]))
    return {
        "gen_seed": settings.gen_seed,
        "images_per_prompt": settings.num_images_per_prompt,
        "copies": copies,
        "probe": check_probe(runs["nonmemorized"]),
        "detection_auc": check_detection(runs),
        "localisation_pixel_auroc": check_localisation(memorized),
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", default=str(MODEL), help="diffusers folder")
    add("--gen_seed", type=int, default=100, help="image k of prompt i depends on this, i and k")
    add("--num_images_per_prompt", type=int, default=4, help="images of each prompt")
    add("--num_inference_steps", type=int, default=50, help="DDIM steps")
    add("--guidance_scale", type=float, default=7.5, help="of classifier-free guidance")
    add("--prompts", type=Path, default=PLANTED, help="folder with the prompt files and the ground truth")
    add("--output", type=Path, help="JSON file for the report")
    add("--images", type=Path, help="also save a sheet of generated images")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    settings = Settings(args.gen_seed, args.num_images_per_prompt, args.num_inference_steps, args.guidance_scale)
    pipe = load_pipeline(args.model_id)
    records = {
        "memorized": load_prompts(str(args.prompts / GROUND_TRUTH.name)),
        "nonmemorized": load_prompts(str(args.prompts / "planted_nonmemorized.jsonl")),
        "near_miss": load_prompts(str(args.prompts / "planted_near_miss.jsonl")),
    }
    runs = {name: generate(pipe, rows, settings) for name, rows in records.items()}
    report = make_report(runs, settings)
    print(tables(report))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.images:
        save_sheet(args.images, runs)


if __name__ == "__main__":
    main()
