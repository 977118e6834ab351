"""Measure the planted world's evaluators on freshly drawn scenes.

    python planted/making/measure_evaluators.py --generated OUTPUT_OF_DETECT_MEM

Writes report.json into the evaluators' folder and prints its tables.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image, ImageFilter

from memorization.bundled import PLANTED
from planted.making import evaluator_networks as parts
from planted.making.measure_copies import PREPROCESS, measure_copies
from planted.making.scenes import COLORS, SHAPES, planted_items, verbatim_scene

COPY_FILE, CLIP_FOLDER = "copy_descriptor.torchscript.pt", "planted_clip"
NUM_CAPTIONED = 500


@torch.no_grad()
def clip_similarity(clip, images, captions):
    """Cosine similarity (images, captions) of PIL images and strings."""
    model, transform, tokenizer = clip
    image = model.encode_image(torch.stack([transform(i) for i in images]), normalize=True)
    return image @ model.encode_text(tokenizer(captions), normalize=True).T


def measure_shapes(clip, seed, blur_radius):
    """Top-1 of 100 captions of distinct meaning per picture, five times, and which words of it are right."""
    rng, right, words = random.Random(seed), [], []
    for _ in range(5):
        scenes = {}
        while len(scenes) < 100:
            scene = parts.captioned_shapes(rng)
            scenes.setdefault(scene.caption_meaning, scene)
        images = [soft(s.image, blur_radius) for s in scenes.values()]
        best = clip_similarity(clip, images, [s.caption for s in scenes.values()]).argmax(1).tolist()
        meanings = list(scenes)
        right += [b == k for k, b in enumerate(best)]
        words += [[set(meanings[b]) & set(g) == set(meanings[k]) & set(g) for g in parts.WORD_GROUPS.values()]
                  for k, b in enumerate(best)]  # fmt: skip
    return {"top1": np.mean(right), "chance": 0.01} | dict(zip(parts.WORD_GROUPS, np.mean(words, 0), strict=True))


def measure_clutter(clip, seed, blur_radius):
    """Top-1 of the 32 meanings of captions with a colour word; colour and kind of thing alone."""
    rng = random.Random(seed)
    scenes = [parts.captioned_clutter(rng, said=True) for _ in range(NUM_CAPTIONED)]
    captions = {s.caption_meaning: s.caption for s in scenes}
    meanings = sorted(captions)
    plain = {s.caption_meaning: s.caption for s in (parts.captioned_clutter(rng, said=False) for _ in range(200))}
    images = [soft(s.image, blur_radius) for s in scenes]
    best = clip_similarity(clip, images, [captions[m] for m in meanings]).argmax(1)
    kind = clip_similarity(clip, images, [plain[k,] for k in range(len(SHAPES))]).argmax(1)
    truth = [s.caption_meaning for s in scenes]
    found = [meanings[b] for b in best]
    return {
        "top1": np.mean([f == t for f, t in zip(found, truth, strict=True)]), "chance": 1 / len(meanings),
        "color": np.mean([f[1] == t[1] for f, t in zip(found, truth, strict=True)]), "color_chance": 1 / len(COLORS),
        "kind_of_thing": np.mean([f == t[0] for f, t in zip(kind.tolist(), truth, strict=True)]),
        "kind_chance": 1 / len(SHAPES),
    }  # fmt: skip


def soft(image, radius):
    return Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))


def measure_planted_pairs(clip, seed):
    """Similarity of verbatim captions to their planted image and to fresh clutter of the same kind.

    Were the first above the second by more than chance, the CLIP would know the planted pictures.
    """
    rng = random.Random(seed)
    items = [i for i in planted_items() if i.kind == "verbatim"]
    fresh = [parts.captioned_clutter(rng) for _ in range(600)]
    own, drawn = [], []
    for item in items:
        images = [Image.fromarray(s.image) for s in fresh if s.image_meanings[0] == (item.thing % len(SHAPES),)]
        scores = clip_similarity(clip, [Image.fromarray(verbatim_scene(item).image), *images], [item.caption()])[:, 0]
        own.append(scores[0].item())
        drawn.append(scores[1:].mean().item())
    difference = np.subtract(own, drawn)
    return {
        "planted_mean": np.mean(own), "fresh_mean": np.mean(drawn), "difference": difference.mean(),
        "standard_error": difference.std(ddof=1) / len(items) ** 0.5,
    }  # fmt: skip


def load_clip(folder):
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}")


def measure(folder, seed, generated=None):
    """Write report.json next to the evaluators in `folder` and print it.

    Args:
        folder: what train_evaluators.py wrote.
        seed: of the scenes to measure on; another one than the training's.
        generated: output folder of a detect_mem.py run on the bundled prompts, or None.
    """
    descriptor = torch.jit.load(folder / COPY_FILE).eval()
    clip = load_clip(folder / CLIP_FOLDER)
    copies = {name: measure_copies(descriptor, seed, name, generated) for name in PREPROCESS}
    report = {"seed": seed, "copy_descriptor": copies, "clip": {}}
    for radius in (0, 1):
        report["clip"][f"blur_{radius}"] = {
            "shapes": measure_shapes(clip, seed, radius), "clutter": measure_clutter(clip, seed, radius)
        }  # fmt: skip
    report["clip"]["planted_pairs"] = measure_planted_pairs(clip, seed)
    report = rounded(report)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


def rounded(value):
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return value if isinstance(value, int) else round(float(value), 4)


def flat(report, prefix=""):
    """Dotted names and numbers of a nested report."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key} / ")
        else:
            yield prefix + key, value


def markdown(report):
    """Two tables: the copy descriptor with a column per preprocessing, the CLIP with one per blur."""
    tables = []
    for part, columns in (("copy_descriptor", list(PREPROCESS)), ("clip", ["blur_0", "blur_1"])):
        values = [dict(flat(report[part][c])) for c in columns]
        lines = [f"| {part} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        lines += [f"| {row} | {' | '.join(str(v[row]) for v in values)} |" for row in values[0]]
        tables.append("\n".join(lines))
    pairs = ", ".join(f"{k} {v}" for k, v in report["clip"]["planted_pairs"].items())
    return "\n\n".join([*tables, f"Planted captions under the CLIP: {pairs}"])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=PLANTED / "planted_evaluators")
    parser.add_argument("--seed", type=int, default=1011, help="of the scenes to measure on; not a training seed")
    parser.add_argument("--generated", type=Path, help="output folder of detect_mem.py on the bundled prompts")
    args = parser.parse_args(argv)
    measure(args.folder, args.seed, args.generated)


if __name__ == "__main__":
    main()
