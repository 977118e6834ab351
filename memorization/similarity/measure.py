"""."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.errors import input_errors
from memorization.finished_runs import masks_for
from memorization.similarity.descriptors import SSCD_PREPROCESSING, ClipSimilarity, CopyDescriptor, PerceptualDistance
from memorization.similarity.pixels import (
    COPY_SIMILARITY,
    LOCAL_COPY,
    copy_similarity,
    local_similarity,
    seed_diversity,
    similarity_to_references,
)


def add_evaluators(group):
    """What images are measured with, here and in eval_mem.py."""
    group.add_argument("--sscd", type=Path, help="copy descriptor, a TorchScript file such as SSCD's")
    group.add_argument("--sscd_preprocessing", default="wen", choices=tuple(SSCD_PREPROCESSING))
    group.add_argument("--reference_model", help="open_clip model for CLIP similarity, or a folder with one")
    group.add_argument("--reference_model_pretrain", default="laion2b_s12b_b42k", help="its weights: tag or file")


MEASURES = {
    "sscd": "SSCD", "copied": f"share SSCD > {COPY_SIMILARITY}", "clip": "CLIP", "ls": "LS", "s": "S",
    "local_copied": f"share LS > {LOCAL_COPY}", "lpips": "LPIPS", "pixel": "pixel similarity",
    "diversity": "diversity",
}  # fmt: skip


@dataclass(frozen=True)
class Evaluators:
    """What images are measured with; None leaves the measure out. `masks` are for LS: (index, seed) to array."""

    descriptor: object = None
    clip: object = None
    perceptual: object = None
    masks: dict = field(default_factory=dict)

    def describe(self):
        """What has to stand beside the numbers."""
        named = {"SSCD": self.descriptor, "CLIP": self.clip, "LPIPS": self.perceptual}
        parts = [f"{name}: {tool.description}" for name, tool in named.items() if tool is not None]
        if self.descriptor is not None:
            parts.append("SSCD is the maximum over training images, then the mean over generations")
        if self.masks:
            parts.append("LS: mask of the unmitigated image over its maximum, pixels in [0, 1], scaled to 512 px")
        return "; ".join(parts)


def measure_run(run, rows, evaluators, records):
    """Every measure of every image of some rows of a run: one dict a prompt.

    Prompts without training images get CLIP alone.

    Returns:
        List of dicts with index, prompt, kind and, for each measure that the evaluators give, a list with
        one number an image (`diversity`: one number a prompt).
    """
    with tqdm(rows, desc=run.key, unit="prompt") as bar:  # closed on a fault, so that its line stands alone
        return [measure_row(run, row, evaluators, records[row["index"]]) for row in bar]


def measure_row(run, row, evaluators, record):
    images = run.images(row)
    references = [read_image(path) for path in record.reference_images]
    result = {"index": row["index"], "prompt": row["prompt"], "kind": row.get("kind") or "all"}
    if evaluators.clip is not None:
        result["clip"] = evaluators.clip(images, row["prompt"])
    if not references:
        return result
    result["pixel"] = similarity_to_references(images, record)
    if evaluators.descriptor is not None:
        descriptors = evaluators.descriptor(list(images))
        sscd = copy_similarity(descriptors, evaluators.descriptor(references)).tolist()
        result |= {"sscd": sscd, "copied": [float(v > COPY_SIMILARITY) for v in sscd]}
        result |= {"s": local_similarity(images, references, sscd), "diversity": [seed_diversity(descriptors)]}
        keys = [(row["index"], seed) for seed in row["seeds"]]
        if evaluators.masks:
            result["ls"] = local_similarity(images, references, sscd, np.stack([evaluators.masks[k] for k in keys]))
            result["local_copied"] = [float(v > LOCAL_COPY) for v in result["ls"]]
    if evaluators.perceptual is not None:
        result["lpips"] = evaluators.perceptual(images, references)
    return result


def open_evaluators(args, runs):
    """Evaluators that the arguments name, and the masks that LS weighs with where there are any.

    Raises:
        InputError: if one of them cannot be had.
    """
    perceptual = None
    with input_errors():
        if args.lpips:
            perceptual = PerceptualDistance(args.device)
    return replace(open_models(args), perceptual=perceptual, masks=masks_for(runs, args.masks))


def open_models(args):
    """Copy descriptor and CLIP, where they are given.

    Raises:
        InputError: if one of them cannot be had.
    """
    descriptor = clip = None
    with input_errors():
        if args.sscd is not None:
            descriptor = CopyDescriptor(args.sscd, args.sscd_preprocessing, args.device)
        if args.reference_model is not None:
            clip = ClipSimilarity(args.reference_model, args.reference_model_pretrain, args.device)
    return Evaluators(descriptor, clip)
