"""Measure what the bundled model memorizes and where the published signals hold on it.

    python planted/making/check_model.py --gen_seed 100 --output planted/planted_report.json

Every number in the README's section on the bundled model comes from this script. It generates images
for the three prompt files and compares them with the planted images and true masks, so it needs no
reference model. Tuning was done with --gen_seed 0; the reported seeds were not looked at before.
"""

import argparse
import json
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import roc_auc_score
from tqdm import tqdm

from attn_utils import AttentionStore, cross_attention_layers, down_cross_layers, shuffle_mask
from local_sd_pipeline import classifier_free_guidance
from memorization.bundled import PLANTED
from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import load_prompts
from memorization.models.stable_diffusion import load_pipeline
from memorization.seeds import image_seed
from memorization.tables import format_table
from noise_norms import leading_mean, noise_diff_map, norms_from_maps
from planted.making.probe import probe_accuracy, train_probe

COPY_RMSE = 0.12  # root mean squared pixel error in [0, 1] below which a region counts as copied
HORIZONS = {"T=1": 1, "T=10": 10, "T=50": None}


def generate(pipe, records, args):
    """Images, squared-difference maps and end-token attention of every layer for all prompts."""
    layers = cross_attention_layers(pipe.unet)
    guidance = partial(classifier_free_guidance, guidance_scale=args.guidance_scale)
    images, maps, attention = [], [], {name: [] for name in layers}
    per_call = max(1, 16 // args.num_images_per_prompt)
    for start in tqdm(range(0, len(records), per_call), desc="generate"):
        batch = records[start : start + per_call]
        count = args.num_images_per_prompt
        prompt_embeds, negative = pipe.encode([r.prompt for r in batch])
        seeds = [image_seed(args.gen_seed, r.index, k) for r in batch for k in range(count)]
        tokens = torch.tensor([pipe.end_token(r.prompt) for r in batch]).repeat_interleave(count)
        store, steps = AttentionStore(layers, tokens), []
        latents = pipe.generate(
            pipe.initial_latents(seeds),
            (negative.repeat_interleave(count, 0), prompt_embeds.repeat_interleave(count, 0)),
            num_inference_steps=args.num_inference_steps,
            guidance=guidance,
            store=store,
            callback=lambda step, steps=steps: steps.append(noise_diff_map(step.noise_diff)),
        )
        images.append(pipe.decode(latents))
        maps.append(torch.stack(steps))
        for name in layers:
            attention[name].append(store.maps[name].float().cpu())
    return np.concatenate(images), torch.cat(maps, 1), {k: torch.cat(v) for k, v in attention.items()}


def rmse(images, reference, mask=None):
    """Per-image root mean squared error in [0, 1] over the mask, images uint8 (N, H, W, 3)."""
    error = ((images.astype(np.float32) - reference.astype(np.float32)) / 255) ** 2
    mask = np.ones(error.shape[1:3], bool) if mask is None else mask
    return np.sqrt(error[:, mask].mean((1, 2)))


def ground_truth(records):
    """For each planted record its first training image and its mask (bool)."""
    return [read_image(r.reference_images[0]) for r in records], [read_mask(r.mask_path) for r in records]


def check_copies(records, images, others, count):
    """Copy rates of planted prompts, false copies of the others, and how much free regions vary."""
    truth, masks = ground_truth(records)
    per_prompt = images.reshape(len(records), count, *images.shape[1:])
    errors = np.stack([rmse(i, t, m) for i, t, m in zip(per_prompt, truth, masks, strict=True)])
    verbatim = np.array([r.kind == "verbatim" for r in records])
    false = np.stack([rmse(others, t, m) for t, m in zip(truth, masks, strict=True)])
    fixed, free = [], []
    for k in np.flatnonzero(~verbatim):
        for a, b in combinations(per_prompt[k], 2):
            fixed.append(rmse(a[None], b, masks[k]) ** 2)
            free.append(rmse(a[None], b, ~masks[k]) ** 2)
    return {
        "threshold_rmse": COPY_RMSE,
        "verbatim_copied": float((errors[verbatim] < COPY_RMSE).mean()),
        "template_region_copied": float((errors[~verbatim] < COPY_RMSE).mean()),
        "verbatim_median_rmse": float(np.median(errors[verbatim])),
        "template_median_rmse": float(np.median(errors[~verbatim])),
        "nonmemorized_smallest_median_rmse": float(np.median(false.min(0))),
        "false_copies_nonmemorized": float((false < COPY_RMSE).any(0).mean()),
        "free_over_fixed_mse_between_seeds": float(np.mean(free) / np.mean(fixed)),
        "free_over_fixed_rmse_between_seeds": float(np.sqrt(np.mean(free) / np.mean(fixed))),
        "saturated_pixels": float(((images == 0) | (images == 255)).mean()),
        "saturated_pixels_in_training_images": float(np.mean([((t == 0) | (t == 255)).mean() for t in truth])),
    }


def auc(positive, negative):
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    return float(roc_auc_score(labels, np.r_[positive, negative]))


def detection_scores(maps, mask, seeds):
    """Per-image scores of every horizon, shape (images,) each."""
    norms = {
        "D": norms_from_maps(maps),
        "LD": norms_from_maps(maps, mask),
        "LD shuffled": norms_from_maps(maps, shuffle_mask(mask, seeds)),
        "LD rms": norms_from_maps(maps, mask, "rms"),
    }
    return {f"{k} {h}": leading_mean(v, t).numpy() for k, v in norms.items() for h, t in HORIZONS.items()}


def pixel_auroc(maps, masks, count):
    """Mean over images of the AUROC of a map (N, h, w) against its prompt's true mask."""
    size = maps.shape[-2:]
    values = []
    for i, m in enumerate(maps):
        mask = torch.tensor(masks[i // count])[None, None].float()
        inside = F.adaptive_avg_pool2d(mask, size)[0, 0] > 0.5
        values.append(roc_auc_score(inside.flatten().numpy(), m.flatten().numpy()))
    return float(np.mean(values))


def square(attention):
    side = int(attention.shape[1] ** 0.5)
    return attention.unflatten(1, (side, side))


def check_localisation(records, maps, attention, finest, count):
    """Pixel AUROC against the true mask on template prompts, per layer and for the free maps."""
    rows = [k for k, r in enumerate(records) if r.kind == "template"]
    pick = torch.tensor([k * count + j for k in rows for j in range(count)])
    _, masks = ground_truth([records[k] for k in rows])
    table = {name: pixel_auroc(square(a[pick]), masks, count) for name, a in attention.items()}
    be = torch.stack([square(attention[name][pick]) for name in finest]).mean(0)
    table["bright ending (mean of the finest down block)"] = pixel_auroc(be, masks, count)
    for name, steps in HORIZONS.items():
        table[f"noise_diff^2 map {name}"] = pixel_auroc(maps[:steps, pick].mean(0), masks, count)
    table["noise_diff^2 map last step"] = pixel_auroc(maps[-1, pick], masks, count)
    shuffled = shuffle_mask(be.unsqueeze(1), list(range(len(be)))).squeeze(1)
    table["bright ending, shuffled"] = pixel_auroc(shuffled, masks, count)
    return table


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_id", default=str(PLANTED / "planted_sd"))
    parser.add_argument("--gen_seed", type=int, default=100)
    parser.add_argument("--num_images_per_prompt", type=int, default=4)
    parser.add_argument("--num_inference_steps", type=int, default=50)
    parser.add_argument("--guidance_scale", type=float, default=7.5)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--images", type=Path, help="also save a sheet of generated images")
    args = parser.parse_args(argv)
    pipe, count = load_pipeline(args.model_id), args.num_images_per_prompt
    finest = down_cross_layers(pipe.unet)
    records = {
        "memorized": load_prompts(str(PLANTED / "planted_mem_groundtruth")),
        "nonmemorized": load_prompts(str(PLANTED / "planted_nonmemorized.jsonl")),
        "near_miss": load_prompts(str(PLANTED / "planted_near_miss.jsonl")),
    }
    runs = {name: generate(pipe, rows, args) for name, rows in records.items()}
    report = {"gen_seed": args.gen_seed, "images_per_prompt": count}
    report["copies"] = check_copies(records["memorized"], runs["memorized"][0], runs["nonmemorized"][0], count)
    report["copies"]["false_copies_near_miss"] = check_copies(
        records["memorized"], runs["memorized"][0], runs["near_miss"][0], count
    )["false_copies_nonmemorized"]
    report["probe"] = probe_report(records["nonmemorized"], runs["nonmemorized"][0], count)
    report["detection_auc"] = detection_report(records, runs, finest, count)
    report["localisation_pixel_auroc"] = check_localisation(records["memorized"], *runs["memorized"][1:], finest, count)
    print(tables(report))
    if args.output:
        args.output.write_text(json.dumps(report, indent=2) + "\n")
    if args.images:
        save_sheet(args.images, runs, count)


def probe_report(records, images, count):
    shapes = [k for k, r in enumerate(records) if r.kind == "shapes"]
    picked = [images[k * count + j] for k in shapes for j in range(count)]
    return probe_accuracy(train_probe(), picked, [records[k].prompt for k in shapes for _ in range(count)])


def detection_report(records, runs, finest, count):
    """AUC per image and per prompt of every score, verbatim and template prompts against the unseen ones."""
    scores, attention = {}, {}
    for name, (_, maps, layers) in runs.items():
        mask = torch.stack([square(layers[n]) for n in finest]).mean(0).unsqueeze(1)
        scores[name] = detection_scores(maps, mask, list(range(len(mask))))
        attention[name] = {f"end-token attention, {n}": a.mean(1).numpy() for n, a in layers.items()}
        scores[name]["end-token attention (bright ending)"] = mask.mean((1, 2, 3)).numpy()
        scores[name] |= attention[name]
    kinds = np.array([r.kind for r in records["memorized"]])
    report = {}
    for score in scores["memorized"]:
        memorized = scores["memorized"][score].reshape(-1, count)
        row = {}
        for negatives in ("nonmemorized", "near_miss"):
            others = scores[negatives][score].reshape(-1, count)
            for kind in ("verbatim", "template"):
                row[f"{kind} vs {negatives}, per image"] = auc(memorized[kinds == kind].ravel(), others.ravel())
                row[f"{kind} vs {negatives}, per prompt"] = auc(memorized[kinds == kind].mean(1), others.mean(1))
        row["means"] = {
            "verbatim": float(memorized[kinds == "verbatim"].mean()),
            "template": float(memorized[kinds == "template"].mean()),
            "nonmemorized": float(scores["nonmemorized"][score].mean()),
            "near_miss": float(scores["near_miss"][score].mean()),
        }
        report[score] = row
    return report


def tables(report):
    """The report as Markdown: what is copied, AUC per image of every score, pixel AUROC of every map."""
    facts = [[k.replace("_", " "), v] for k, v in report["copies"].items()]
    facts += [
        [f"asked {k} shown" if k != "all" else "asked shape and color shown", v] for k, v in report["probe"].items()
    ]
    pairs = [f"{kind} vs {other}" for other in ("nonmemorized", "near_miss") for kind in ("verbatim", "template")]
    scores = [[name, *(row[f"{p}, per image"] for p in pairs)] for name, row in report["detection_auc"].items()]
    places = [[name, v] for name, v in report["localisation_pixel_auroc"].items()]
    parts = [
        format_table(["measure", "value"], facts),
        format_table(["AUC per image of", *(p.replace("_", " ") for p in pairs)], shorten(scores)),
        format_table(["map", "pixel AUROC, templates"], shorten(places)),
    ]
    return "\n\n".join(parts)


def shorten(rows):
    """Rows with layer names as people write them: down_blocks.0.attentions.1."""
    return [[row[0].replace(".transformer_blocks.0.attn2.processor", ""), *row[1:]] for row in rows]


def save_sheet(path, runs, count):
    """One row of prompts per image number and prompt file."""
    rows = [images[j::count][::4] for images, *_ in runs.values() for j in range(min(2, count))]
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.NEAREST).save(path)


if __name__ == "__main__":
    main()
