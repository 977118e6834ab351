"""Measure the copy descriptor on freshly drawn scenes, on copies made by Pillow and on generated images.

The alterations share no code with those the descriptor was trained on. Called by measure.py.
"""

import io
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from memorization.evaluation.curves import average_precision, cumulative_curve, rank_auc
from memorization.similarity.pixels import COPY_SIMILARITY as CUT
from memorization.similarity.preprocessing import sscd_transform
from planted.making.doses import FULL_DOSE
from planted.making.drawn.objects import SIZE
from planted.making.drawn.planted import Planted, planted_items
from planted.making.drawn.words import COLORS
from planted.making.drawn.world import told
from planted.making.evaluators import networks as parts

Numbers = dict[str, float]

NUM_COPIES, NUM_DISTRACTORS, NUM_TEMPLATES = 500, 1500, 300
PREPROCESS = ("wen", "official_320")
WANTED_PRECISION = 0.9


@torch.no_grad()
def describe(descriptor: torch.nn.Module, images: Sequence[Image.Image], name: str) -> torch.Tensor:
    """Descriptors (images, 128) of pictures under one preprocessing."""
    transform = sscd_transform(name)
    chunks = [images[i : i + 64] for i in range(0, len(images), 64)]
    return torch.cat([descriptor(torch.stack([transform(i) for i in chunk])) for chunk in chunks])


def to_jpeg(image: Image.Image, quality: int) -> Image.Image:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def cropped(image: Image.Image, rng: random.Random) -> Image.Image:
    side = round(SIZE * rng.uniform(0.65, 0.9))
    left, top = rng.randrange(SIZE - side + 1), rng.randrange(SIZE - side + 1)
    return image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


def overlaid(image: Image.Image, rng: random.Random) -> Image.Image:
    image = image.copy()
    width, height = rng.randrange(SIZE // 5, SIZE // 2), rng.randrange(SIZE // 5, SIZE // 2)
    color = rng.choice(list(COLORS.values()))
    x, y = rng.randrange(SIZE // 2), rng.randrange(SIZE // 2)
    image.paste(color, (x, y, x + width, y + height))
    return image


def recolored(image: Image.Image, rng: random.Random) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image


def noisy(image: Image.Image, rng: random.Random) -> Image.Image:
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 15, (SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


ALTERATIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "blurred": lambda image, rng: image.filter(ImageFilter.GaussianBlur(SIZE / 64 * rng.uniform(0.7, 2))),
    "cropped": cropped,
    "overlaid": overlaid,
    "recolored": recolored,
    "noisy": noisy,
    "jpeg": lambda image, rng: to_jpeg(image, rng.randrange(10, 50)),
    "halved": lambda image, rng: image.reduce(2).resize((SIZE, SIZE), Image.Resampling.BILINEAR),
    "mirrored": lambda image, rng: ImageOps.mirror(image),
}


def altered(image: Image.Image, rng: random.Random, name: str) -> Image.Image:
    """A copy with one named alteration and, every other time, a slight blur, as generated images have."""
    image = ALTERATIONS[name](image, rng)
    return image.filter(ImageFilter.GaussianBlur(SIZE / 64 * 0.8)) if rng.random() < 0.5 else image


def spread_of(scores: torch.Tensor) -> Numbers:
    """Mean and upper percentiles of scores of unrelated pictures."""
    top = torch.quantile(scores, torch.tensor([0.99, 0.999], dtype=scores.dtype))
    return {"mean": scores.mean().item(), "p99": top[0].item(), "p999": top[1].item(), "max": scores.max().item()}


def measure_retrieval(descriptor: torch.nn.Module, seed: int, name: str) -> dict[str, Numbers]:
    """Altered copies of 500 references and 1500 altered unrelated pictures, all against the 500 references."""
    rng = random.Random(seed)
    scenes = [Image.fromarray(s.image) for s in parts.copy_scenes(rng, NUM_COPIES + NUM_DISTRACTORS)]
    kinds = [list(ALTERATIONS)[k // 4 % len(ALTERATIONS)] for k in range(len(scenes))]
    references = describe(descriptor, scenes[:NUM_COPIES], name)
    queries = [altered(image, rng, kind) for image, kind in zip(scenes, kinds, strict=True)]
    cosine = describe(descriptor, queries, name) @ references.T
    others = describe(descriptor, scenes[NUM_COPIES:], name) @ references.T
    found = (cosine.diagonal() > CUT).float()
    busy = torch.arange(len(cosine)) % 4 != 1  # copy_scenes draws its kinds in a cycle of four, objects second
    return {
        "all": retrieval_numbers(cosine),
        "without objects": retrieval_numbers(cosine[busy][:, busy[:NUM_COPIES]]),
        "recall_by_alteration": {a: found[[k == a for k in kinds[:NUM_COPIES]]].mean().item() for a in ALTERATIONS},
        "unrelated": spread_of(others),
        "unrelated clutter": spread_of(others[::4, ::4]),
        "unrelated objects": spread_of(others[1::4, 1::4]),
    }


def retrieval_numbers(cosine: torch.Tensor) -> Numbers:
    """What is found of copies by cosine similarities (queries, references), query k being the copy of reference k.

    The micro average precision is that of all pairs ranked together (Douze et al., 2021).
    """
    own = cosine.diagonal()
    curve = cumulative_curve(cosine.flatten().numpy(), np.eye(*cosine.shape, dtype=bool).ravel())
    true, precision = curve.true, curve.true / (curve.true + curve.false)
    last = np.flatnonzero(precision >= WANTED_PRECISION)[-1]
    return {
        "micro_average_precision": average_precision(curve),
        "precision_at_0.5": ((own > CUT).sum() / (cosine > CUT).sum()).item(),
        "recall_at_0.5": (own > CUT).float().mean().item(),
        "threshold_of_precision_0.9": curve.thresholds[last],
        "recall_at_that_threshold": true[last] / len(own),
        "copies_mean": own.mean().item(),
    }


def measure_partial(descriptor: torch.nn.Module, seed: int, name: str) -> dict[str, Numbers]:
    """Two draws of fresh templates, which share their fixed region, by the share of the picture it covers."""
    rng = random.Random(seed)
    pairs = [[parts.fresh_template(rng, 10**6 + k) for _ in range(2)] for k in range(NUM_TEMPLATES)]
    first, second = (describe(descriptor, [Image.fromarray(p[i].image) for p in pairs], name) for i in range(2))
    cosine = first @ second.T
    own, others = cosine.diagonal(), cosine[~torch.eye(len(pairs), dtype=torch.bool)]
    shares = torch.tensor([p[0].mask.mean() for p in pairs])
    rows = {"all": torch.ones(len(pairs), dtype=torch.bool)}
    rows |= {f"{s:.0%} copied": (shares - s).abs() < 1e-6 for s in sorted(set(shares.tolist()))}
    table = {k: {**lower_spread(own[r]), "auc": rank_auc(own[r].numpy(), others.numpy())} for k, r in rows.items()}
    return table | {"unrelated": spread_of(others)}


def lower_spread(scores: torch.Tensor) -> Numbers:
    """Mean, lowest and fifth percentile of scores of copies, and how many are above the field's cut."""
    return {
        "mean": scores.mean().item(),
        "p5": scores.quantile(0.05).item(),
        "min": scores.min().item(),
        "above_0.5": (scores > CUT).float().mean().item(),
        "number": len(scores),
    }


def training_images(item: Planted) -> list[Image.Image]:
    """Some of a planted caption's training images."""
    return [Image.fromarray(image) for image in told(item).images]


def measure_generated(descriptor: torch.nn.Module, output_dir: Path, name: str) -> dict[str, Numbers]:
    """Images of the bundled model: the best score against the prompt's own training images, and the others'.

    Args:
        output_dir: of a run of detect_mem.py on the bundled prompts, those of the full dose first.
    """
    generated = describe(descriptor, generated_images(output_dir), name)
    items = [item for item in planted_items() if item.dose == FULL_DOSE]
    trained = [describe(descriptor, training_images(item), name) for item in items]
    best = torch.stack([(generated @ t.T).amax(1) for t in trained], 1)  # (images, planted captions)
    planted = best[: len(trained)]
    report = {}
    for kind in ("verbatim", "template"):
        places = [k for k, item in enumerate(items) if item.kind == kind]
        report[kind] = lower_spread(planted.diagonal()[places])
    others = planted[~torch.eye(len(trained), dtype=torch.bool)]
    return report | {"planted, to others": spread_of(others), "unseen, to planted": spread_of(best[len(trained) :])}


def generated_images(output_dir: Path) -> list[Image.Image]:
    """The first image of every prompt of a run, in the order of its rows."""
    rows = [json.loads(line) for line in next((output_dir / "det_outputs").glob("*.jsonl")).read_text().splitlines()]
    folder = next(path for path in (output_dir / "images_data").iterdir() if path.is_dir())
    return [Image.open(folder / f"{r['index']}_{r['seeds'][0]}.png").convert("RGB") for r in rows]


def measure_planted(descriptor: torch.nn.Module, name: str) -> Numbers:
    """The planted training images among themselves."""
    images = describe(descriptor, [training_images(i)[0] for i in planted_items()], name)
    return spread_of((images @ images.T)[~torch.eye(len(images), dtype=torch.bool)])


def measure_copies(descriptor: torch.nn.Module, seed: int, name: str, generated: Path | None = None) -> dict:
    """Everything measured under one preprocessing, as a nested dict of numbers."""
    measured: dict = {
        "retrieval": measure_retrieval(descriptor, seed, name),
        "partial copies": measure_partial(descriptor, seed, name),
        "planted, to each other": measure_planted(descriptor, name),
    }
    return measured | ({"generated": measure_generated(descriptor, generated, name)} if generated else {})
