"""Measure what the bundled model memorizes and where the published signals hold on it.

    python planted/making/check_model.py --gen_seed 100 --output planted/planted_report.json --images FOLDER

Every number in the docs' page on the bundled model comes from this script. It generates images for the planted prompts
of the full dose, for unseen ones, near misses and 64 objects that captions never asked for, and compares them with the
planted pictures and true masks, so it needs no reference model. Tuning was done with --gen_seed 0; the reported seeds
were not looked at before.
"""

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attn_utils import cross_attention_layers, down_cross_layers
from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import GROUND_TRUTH, MODEL, PLANTED
from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.detectors.base import DETECTORS
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import make_folder, save_png, write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Observation, Recorded, make_inputs, observe_batches
from memorization.runs.arguments import HelpFormatter, image_count, positive_int, seed_int
from memorization.seeds import image_seeds
from memorization.similarity.pixels import resized
from memorization.tables import plain
from planted.making.drawn.probe import train_probe
from planted.making.drawn.scenes import is_held_out_object, object_scene
from planted.making.drawn.world import fresh_scenes
from planted.making.model_measures import (
    COPY_RMSE,
    MEMORIZED,
    OTHERS,
    Generated,
    check_copies,
    check_detection,
    check_localisation,
    check_probe,
)
from planted.making.model_tables import all_tables

BATCH_SIZE = 16
ASKED = "asked"  # objects of held-out captions, one image each
NUM_ASKED, ASKED_SEED = 64, 4713  # a seed that no prompt file is drawn with


@dataclass(frozen=True)
class Settings:
    """How images are made, by the names of the command line."""

    gen_seed: int
    num_images_per_prompt: int
    num_inference_steps: int
    guidance_scale: float


def load_records(folder: Path) -> dict[str, list[PromptRecord]]:
    """The prompts to generate for, by the name of their set.

    Raises:
        InputError: if a file is missing, or the planted prompts have no training pictures.
    """
    records = {MEMORIZED: load_prompts(str(folder / GROUND_TRUTH.name))}
    records |= {name: load_prompts(str(folder / f"planted_{name}.jsonl")) for name in OTHERS}
    if not all(r.reference_images and r.mask_path for r in records[MEMORIZED]):
        raise InputError(f"{folder / GROUND_TRUTH.name} lacks training pictures or masks; see world_files.py")
    return records | {ASKED: asked_records({r.prompt for r in records["nonmemorized"]})}


def asked_records(taken: set[str]) -> list[PromptRecord]:
    """Different captions of objects whose combination of words is never trained on, none of them in `taken`."""
    rng = random.Random(ASKED_SEED)
    scenes = fresh_scenes(lambda: object_scene(rng), NUM_ASKED, taken, is_held_out_object)
    return [PromptRecord(k, s.caption, s.caption, is_memorized=False, kind=s.kind) for k, s in enumerate(scenes)]


def generate(
    pipe: LocalStableDiffusionPipeline, records: Sequence[PromptRecord], settings: Settings, count: int, name: str
) -> Generated:
    """`count` images of each prompt, with the usual scores, noise-difference maps and attention of every layer."""
    recorded = Recorded(layers=down_cross_layers(pipe.unet), map_layers=cross_attention_layers(pipe.unet))
    usual = [d for d in DETECTORS.values() if d.always]
    images, observed, seeds = [], [], [image_seeds(settings.gen_seed, r.index, count) for r in records]
    per_call = max(1, BATCH_SIZE // count)
    for start in tqdm(range(0, len(records), per_call), desc=name):
        some = slice(start, start + per_call)
        one = observe_batches(
            pipe,
            make_inputs(pipe, [r.prompt for r in records[some]], seeds[some]),
            max(BATCH_SIZE, count),
            recorded,
            detectors=usual,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
        )
        images.append(pipe.decode(one.latents))
        observed.append(one)
    flat = [seed for some in seeds for seed in some]
    return Generated(records, count, np.concatenate(images), Observation.join(observed), flat)


def make_report(runs: Mapping[str, Generated], settings: Settings) -> dict:
    """Everything that is measured, as JSON holds it; see `Entry` for a number."""
    probe = train_probe()
    length = runs[MEMORIZED].images.shape[1]
    return {
        "settings": asdict(settings) | {"copy_rmse": COPY_RMSE, "image_length": length},
        "copies": check_copies(runs),
        "probe": {name: check_probe(probe, runs[name]) for name in (ASKED, "nonmemorized")},
        "detection_auc": check_detection(runs),
        "localisation_pixel_auroc": check_localisation(runs[MEMORIZED]),
    }


# Sheets to look at


def sheet(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Images of one size in rows, the last one filled up with white: uint8 (height, width, 3)."""
    blanks = [np.full_like(images[0], 255)] * (-len(images) % columns)
    whole = [*images, *blanks]
    return np.concatenate([np.concatenate(whole[k : k + columns], 1) for k in range(0, len(whole), columns)])


def planted_sheet(memorized: Generated) -> np.ndarray:
    """Each planted prompt's training picture beside two images of it, four prompts to a row."""
    images = []
    for record, made in zip(memorized.records, memorized.per_prompt, strict=True):
        images += [resized(read_image(record.reference_images[0]), (made.shape[2], made.shape[1])), *made[:2]]
    return sheet(images, 4 * 3)


def save_sheets(folder: Path, runs: Mapping[str, Generated]) -> None:
    """asked.png, 8 x 8 images of held-out objects, and planted.png."""
    save_png(folder / "asked.png", sheet(list(runs[ASKED].images), 8))
    save_png(folder / "planted.png", planted_sheet(runs[MEMORIZED]))


# The command


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", default=str(MODEL), help="diffusers folder")
    add("--gen_seed", type=seed_int, default=100, help="image k of prompt i depends on this, i and k")
    add("--num_images_per_prompt", type=image_count, default=4, help="images of each prompt but those asked once")
    add("--num_inference_steps", type=positive_int, default=50, help="DDIM steps")
    add("--guidance_scale", type=float, default=7.5, help="of classifier-free guidance")
    add("--prompts", type=Path, default=PLANTED, help="folder with the prompt files and the ground truth")
    add("--output", type=Path, help="JSON file for the report")
    add("--images", type=Path, metavar="FOLDER", help="also save asked.png and planted.png, sheets of what was made")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        settings = Settings(args.gen_seed, args.num_images_per_prompt, args.num_inference_steps, args.guidance_scale)
        if settings.num_images_per_prompt < 2:
            raise InputError("--num_images_per_prompt 1 is below 2: free regions are compared between two images")
        records = load_records(args.prompts)
        if args.images:
            make_folder(args.images, "--images")
        if args.output:
            make_folder(args.output.parent, "--output")  # now rather than after the work
        with input_errors():
            pipe = load_pipeline(args.model_id)
        counts = {name: 1 if name == ASKED else settings.num_images_per_prompt for name in records}
        runs = {name: generate(pipe, rows, settings, counts[name], name) for name, rows in records.items()}
        if args.images:
            save_sheets(args.images, runs)
        report = make_report(runs, settings)
        if args.output:
            write_text(args.output, json.dumps(plain(report), indent=1) + "\n")
    print(all_tables(report))


if __name__ == "__main__":
    main()
