"""Does a score know that THIS image is memorized, or only that the prompt is special?

    python experiments/caption_swap.py --output caption_swap.md

Each prompt is scored on its own training image and on another prompt's of the same kind, both with the same noise at
the same timestep. AUC of own against other is 0.5 for a score that reads the prompt alone. No paper's evaluation of
these scores has this test; for image-level scores Lopez Amado et al. (2026) made it with other captions.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from local_sd_pipeline import DenoiseStep, encode_images
from memorization.bundled import PLANTED
from memorization.data.pictures import read_image
from memorization.data.prompts import load_prompts
from memorization.detectors.registry import SIGNALS
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.evaluation.statistics import auc, bootstrap_weights, cumulative_curve, interval_text, with_interval
from memorization.files.whole import write_text
from memorization.models.stable_diffusion import load_pipeline
from memorization.observation import Trace
from memorization.seeds import image_seed
from memorization.tables import format_table
from noise_norms import noise_diff_map, noise_diff_norm

SCORES = ("sharpness", "curvature_diff", "noise_diff_map")  # those that look at one timestep


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="planted_mem_groundtruth", help="*_groundtruth folder")
    parser.add_argument("--model_id", default=str(PLANTED / "planted_sd"))
    parser.add_argument("--end", type=int, default=500)
    parser.add_argument("--gen_seed", type=int, default=0)
    parser.add_argument("--timesteps", type=int, nargs="+", default=(981, 741, 501, 261, 21))
    parser.add_argument("--num_images", type=int, default=2, help="noises an image")
    parser.add_argument("--output", type=Path, help="Markdown file for the table")
    return parser


def scores_at(pipe, images, t, prompt, seeds):
    """D and the signals on some images under the same noises: dict from name to array (images, noises).

    Args:
        images: latents of one image each, (1, channels, height, width).
    """
    count, latents = len(images), torch.cat([i.expand(len(seeds), -1, -1, -1) for i in images])
    noise = [torch.randn(images[0].shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    noise, seeds = torch.cat(noise * count), seeds * count
    text, negative = (e.expand(len(seeds), -1, -1) for e in pipe.encode([prompt]))
    alpha = pipe.scheduler.alphas_cumprod[t]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise.to(latents)
    with torch.no_grad():
        prediction = pipe.predict_noise(noisy, t, (negative, text))
    step = DenoiseStep(0, t, noisy, prediction, prediction.outputs[1], noisy)
    tokens = torch.full((len(seeds),), pipe.end_token(prompt))
    trace = Trace(pipe, (negative, text), tokens, seeds, 1, steps={0: step}, maps=[noise_diff_map(step.noise_diff)])
    found = {"D": noise_diff_norm(step.noise_diff)}
    for name in SCORES:
        found |= SIGNALS[name].function(trace)
    return {name: values.double().cpu().numpy().reshape(count, -1) for name, values in found.items()}


def partners(records):
    """For each record another of its kind, the next in order."""
    following = {}
    for kind in {r.kind for r in records}:
        group = [r for r in records if r.kind == kind]
        if len(group) < 2:
            raise InputError(f"kind {kind} has one prompt; there is no other image to swap with")
        following |= {r.index: other for r, other in zip(group, [*group[1:], group[0]], strict=True)}
    return following


def measure(pipe, records, args):
    """Scores of own and of swapped images: dict from (name, timestep) to two arrays (prompts, noises)."""
    latents = {r.index: encode_images(pipe, read_image(r.reference_images[0])[None]) for r in records}
    other, found = partners(records), {}
    for record in tqdm(records, desc="caption swap", unit="prompt"):
        seeds = [image_seed(args.gen_seed, record.index, k) for k in range(args.num_images)]
        for t in args.timesteps:
            images = [latents[of.index] for of in (record, other[record.index])]
            for name, (own, swapped) in scores_at(pipe, images, t, record.prompt, seeds).items():
                pair = found.setdefault((name, t), ([], []))
                pair[0].append(own)
                pair[1].append(swapped)
    return {key: tuple(map(np.stack, pair)) for key, pair in found.items()}


def auc_with_interval(own, swapped):
    """AUC of own against swapped and its 95 % interval by resampling prompts, which are in both classes."""
    scores = np.concatenate([own.ravel(), swapped.ravel()])
    labels = np.arange(len(scores)) < own.size
    prompts = np.tile(np.repeat(np.arange(len(own)), own.shape[1]), 2)
    weights = bootstrap_weights(prompts, 1000)
    point, spread = (auc(cumulative_curve(scores, labels, w)) for w in (None, weights))
    return with_interval(point[0], spread)


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        records = [r for r in load_prompts(args.dataset, 0, args.end) if r.reference_images]
        if not records:
            raise InputError(f"{args.dataset} has no training images; give a *_groundtruth folder")
        with input_errors():
            pipe = load_pipeline(args.model_id)
        found, rows = measure(pipe, records, args), []
        for name in dict.fromkeys(n for n, _ in found):
            texts = [interval_text(auc_with_interval(*found[name, t])) for t in args.timesteps]
            rows.append([name, *texts])
        table = format_table(["score", *(f"t = {t}" for t in args.timesteps)], rows)
        print(table)
        if args.output is not None:
            write_text(args.output, table + "\n")


if __name__ == "__main__":
    main()
