"""Measure the copy descriptor on freshly drawn scenes, on copies made by Pillow and on generated images.

The alterations share no code with those the descriptor was trained on. Called by measure_evaluators.py.
"""

import io
import json
import random

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from memorization.bundled import PLANTED
from memorization.similarity.descriptors import sscd_transform
from memorization.similarity.pixels import COPY_SIMILARITY as CUT
from planted.making import evaluator_networks as parts
from planted.making.scenes import COLORS, SIZE, planted_items

NUM_COPIES, NUM_DISTRACTORS, NUM_TEMPLATES = 500, 1500, 300
PREPROCESS = ("wen", "official_320")


@torch.no_grad()
def describe(descriptor, images, name):
    """Descriptors (images, 128) of PIL images."""
    transform = sscd_transform(name)
    chunks = [images[i : i + 64] for i in range(0, len(images), 64)]
    return torch.cat([descriptor(torch.stack([transform(i) for i in chunk])) for chunk in chunks])


def to_jpeg(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data).convert("RGB")


def cropped(image, rng):
    side = round(SIZE * rng.uniform(0.65, 0.9))
    left, top = rng.randrange(SIZE - side + 1), rng.randrange(SIZE - side + 1)
    return image.resize((SIZE, SIZE), Image.BICUBIC, box=(left, top, left + side, top + side))


def overlaid(image, rng):
    image = image.copy()
    width, height = rng.randrange(12, 28), rng.randrange(12, 28)
    image.paste(
        rng.choice(list(COLORS.values())), (x := rng.randrange(40), y := rng.randrange(40), x + width, y + height)
    )
    return image


def recolored(image, rng):
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(rng.uniform(0.7, 1.3))
    return image


def noisy(image, rng):
    noise = np.random.default_rng(rng.randrange(2**32)).normal(0, 15, (SIZE, SIZE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


ALTERATIONS = {
    "blurred": lambda image, rng: image.filter(ImageFilter.GaussianBlur(rng.uniform(0.7, 2))),
    "cropped": cropped,
    "overlaid": overlaid,
    "recolored": recolored,
    "noisy": noisy,
    "jpeg": lambda image, rng: to_jpeg(image, rng.randrange(10, 50)),
    "halved": lambda image, rng: image.reduce(2).resize((SIZE, SIZE), Image.BILINEAR),
    "mirrored": lambda image, rng: ImageOps.mirror(image),
}


def altered(image, rng, name):
    """A copy with one named alteration and, every other time, a slight blur, as generated images have."""
    image = ALTERATIONS[name](image, rng)
    return image.filter(ImageFilter.GaussianBlur(0.8)) if rng.random() < 0.5 else image


def micro_average_precision(scores, right):
    """Area under the precision-recall curve of all pairs ranked together (Douze et al., 2021)."""
    ranked = right[scores.argsort(descending=True)].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    return (precision * ranked).sum().item() / right.sum().item()


def precision_cut(scores, right, wanted=0.9):
    """Lowest score above which at least `wanted` of the pairs are right, and the share of right pairs above it."""
    order = scores.argsort(descending=True)
    ranked = right[order].double()
    precision = ranked.cumsum(0) / torch.arange(1, len(ranked) + 1)
    last = (precision >= wanted).nonzero().max()
    return scores[order[last]].item(), (ranked[: last + 1].sum() / right.sum()).item()


def spread_of(scores):
    """Mean and upper percentiles of scores of unrelated pictures."""
    top = torch.quantile(scores, torch.tensor([0.99, 0.999], dtype=scores.dtype))
    return {"mean": scores.mean().item(), "p99": top[0].item(), "p999": top[1].item(), "max": scores.max().item()}


def measure_retrieval(descriptor, seed, name):
    """Altered copies of 500 references and 1500 altered unrelated pictures, all against the 500 references."""
    rng = random.Random(seed)
    scenes = [Image.fromarray(s.image) for s in parts.copy_scenes(rng, NUM_COPIES + NUM_DISTRACTORS)]
    kinds = [list(ALTERATIONS)[k // 4 % len(ALTERATIONS)] for k in range(len(scenes))]
    references = describe(descriptor, scenes[:NUM_COPIES], name)
    queries = [altered(image, rng, kind) for image, kind in zip(scenes, kinds, strict=True)]
    cosine = describe(descriptor, queries, name) @ references.T
    others = describe(descriptor, scenes[NUM_COPIES:], name) @ references.T
    found = (cosine.diagonal() > CUT).float()
    busy = torch.arange(len(cosine)) % 4 != 1  # copy_scenes draws its kinds in a cycle of four, shapes second
    return {
        "all": retrieval_numbers(cosine),
        "without shapes": retrieval_numbers(cosine[busy][:, busy[:NUM_COPIES]]),
        "recall_by_alteration": {a: found[[k == a for k in kinds[:NUM_COPIES]]].mean() for a in ALTERATIONS},
        "unrelated": spread_of(others),
        "unrelated clutter": spread_of(others[::4, ::4]),
        "unrelated shapes": spread_of(others[1::4, 1::4]),
    }


def retrieval_numbers(cosine):
    """Cosine similarities (queries, references), where query k is the copy of reference k."""
    scores, right = cosine.flatten(), torch.eye(*cosine.shape, dtype=torch.bool).flatten()
    own = cosine.diagonal()
    threshold, recall = precision_cut(scores, right)
    return {
        "micro_average_precision": micro_average_precision(scores, right),
        "precision_at_0.5": (own > CUT).sum() / (scores > CUT).sum(),
        "recall_at_0.5": (own > CUT).float().mean(),
        "threshold_of_precision_0.9": threshold,
        "recall_at_that_threshold": recall,
        "copies_mean": own.mean(),
    }


def measure_partial(descriptor, seed, name):
    """Two draws of fresh templates, which share their fixed region, by the share of the picture it covers."""
    rng = random.Random(seed)
    pairs = [[parts.fresh_template(rng, 10**6 + k) for _ in range(2)] for k in range(NUM_TEMPLATES)]
    first, second = (describe(descriptor, [Image.fromarray(p[i].image) for p in pairs], name) for i in range(2))
    cosine = first @ second.T
    own, others = cosine.diagonal(), cosine[~torch.eye(len(pairs), dtype=torch.bool)]
    shares = torch.tensor([p[0].mask.mean() for p in pairs])
    rows = {"all": torch.ones(len(pairs), dtype=torch.bool)}
    rows |= {f"{s:.0%} copied": (shares - s).abs() < 1e-6 for s in sorted(set(shares.tolist()))}
    table = {k: {**lower_spread(own[r]), "auc": auc(own[r], others)} for k, r in rows.items()}
    return table | {"unrelated": spread_of(others)}


def auc(positive, negative):
    """Probability that a positive scores above a negative."""
    return torch.searchsorted(negative.sort().values, positive).double().mean().item() / len(negative)


def lower_spread(scores):
    """Mean, lowest and fifth percentile of scores of copies, and how many are above the field's cut."""
    return {
        "mean": scores.mean().item(), "p5": scores.quantile(0.05).item(), "min": scores.min().item(),
        "above_0.5": (scores > CUT).float().mean().item(), "number": len(scores),
    }  # fmt: skip


def training_images(number):
    folder = PLANTED / "planted_mem_groundtruth" / "gt_images" / str(number)
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))]


def measure_generated(descriptor, output_dir, name):
    """Images of the bundled model: the best score against the prompt's own training images, and the others'."""
    rows = [json.loads(line) for line in next((output_dir / "det_outputs").glob("*.jsonl")).read_text().splitlines()]
    folder = next(path for path in (output_dir / "images_data").iterdir() if path.is_dir())
    images = [Image.open(folder / f"{r['index']}_{r['seeds'][0]}.png").convert("RGB") for r in rows]
    generated = describe(descriptor, images, name)
    trained = [describe(descriptor, training_images(i.number), name) for i in planted_items()]
    best = torch.stack([(generated @ t.T).amax(1) for t in trained], 1)  # (images, planted captions)
    kinds = [i.kind for i in planted_items()]
    own = {k: best[[n for n, kind in enumerate(kinds) if kind == k]] for k in ("verbatim", "template")}
    own = {k: lower_spread(v[:, [n for n, kind in enumerate(kinds) if kind == k]].diagonal()) for k, v in own.items()}
    planted = best[: len(kinds)][~torch.eye(len(kinds), dtype=torch.bool)]
    return own | {"planted, to others": spread_of(planted), "unseen, to planted": spread_of(best[len(kinds) :])}


def measure_planted(descriptor, name):
    """The planted training images among themselves."""
    images = describe(descriptor, [training_images(i.number)[0] for i in planted_items()], name)
    return spread_of((images @ images.T)[~torch.eye(len(images), dtype=torch.bool)])


def measure_copies(descriptor, seed, name, generated=None):
    """Everything measured under one preprocessing, as a nested dict of numbers."""
    measured = {
        "retrieval": measure_retrieval(descriptor, seed, name),
        "partial copies": measure_partial(descriptor, seed, name),
        "planted, to each other": measure_planted(descriptor, name),
    }
    return measured | ({"generated": measure_generated(descriptor, generated, name)} if generated else {})
