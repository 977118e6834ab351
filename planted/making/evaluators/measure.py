"""Measure the planted world's evaluators on freshly drawn scenes.

    python planted/making/evaluators/measure.py --generated OUTPUT_OF_DETECT_MEM

Writes report.json into the evaluators' folder and prints its tables.
"""

import argparse
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image, ImageFilter

from memorization.bundled import CLIP, COPY_DESCRIPTOR, PLANTED
from memorization.runs.arguments import HelpFormatter
from planted.making.drawn.planted import planted_items
from planted.making.drawn.scenes import verbatim_scene
from planted.making.drawn.words import COLORS, THINGS
from planted.making.evaluators import networks
from planted.making.evaluators.copies import PREPROCESS, measure_copies

FOLDER = PLANTED / "planted_evaluators"
NUM_CAPTIONED, NUM_PLAIN, NUM_FRESH = 500, 200, 600
NUM_MEANINGS, REPEATS = 100, 5  # captions that a picture of an object is told apart from, and how often

Numbers = dict[str, float]


@dataclass(frozen=True)
class Clip:
    """An open_clip model with what it takes pictures and captions by."""

    model: torch.nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[Sequence[str]], torch.Tensor]


def load_clip(folder: Path) -> Clip:
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    return Clip(model.eval(), transform, open_clip.get_tokenizer(f"local-dir:{folder}"))


@torch.no_grad()
def clip_similarity(clip: Clip, images: Sequence[Image.Image], captions: Sequence[str]) -> torch.Tensor:
    """Cosine similarity, (images, captions)."""
    image = clip.model.encode_image(torch.stack([clip.transform(i) for i in images]), normalize=True)
    return image @ clip.model.encode_text(clip.tokenizer(captions), normalize=True).T


def measure_objects(clip: Clip, seed: int, blur_radius: float) -> Numbers:
    """Top-1 of 100 captions of distinct meaning per picture, five times, and which words of it are right."""
    rng = random.Random(seed)
    right, words = [], []
    for _ in range(REPEATS):
        scenes: dict[networks.Meaning, networks.Captioned] = {}
        while len(scenes) < NUM_MEANINGS:
            scene = networks.fully_captioned_object(rng)
            scenes.setdefault(scene.caption_meaning, scene)
        images = [soft(s.image, blur_radius) for s in scenes.values()]
        best = clip_similarity(clip, images, [s.caption for s in scenes.values()]).argmax(1).tolist()
        meanings = list(scenes)
        right += [b == k for k, b in enumerate(best)]
        words += [right_words(meanings[b], meanings[k]) for k, b in enumerate(best)]
    groups = networks.WORD_GROUPS
    return {"top1": np.mean(right), "chance": 1 / NUM_MEANINGS} | dict(zip(groups, np.mean(words, 0), strict=True))


def right_words(found: networks.Meaning, wanted: networks.Meaning) -> list[bool]:
    """For each group of words whether two meanings say the same."""
    groups = networks.WORD_GROUPS.values()
    return [set(found) & set(group) == set(wanted) & set(group) for group in groups]


def measure_clutter(clip: Clip, seed: int, blur_radius: float) -> Numbers:
    """Top-1 of the 48 meanings of captions with a colour word; colour and kind of thing alone."""
    rng = random.Random(seed)
    scenes = [networks.captioned_clutter(rng, said=True) for _ in range(NUM_CAPTIONED)]
    captions = {s.caption_meaning: s.caption for s in scenes}
    meanings = sorted(captions)
    colorless = (networks.captioned_clutter(rng, said=False) for _ in range(NUM_PLAIN))
    plain = {s.caption_meaning: s.caption for s in colorless}
    images = [soft(s.image, blur_radius) for s in scenes]
    best = clip_similarity(clip, images, [captions[m] for m in meanings]).argmax(1)
    kind = clip_similarity(clip, images, [plain[k,] for k in range(len(THINGS))]).argmax(1)
    truth = [s.caption_meaning for s in scenes]
    found = [meanings[b] for b in best]
    return {
        "top1": np.mean([f == t for f, t in zip(found, truth, strict=True)]),
        "chance": 1 / len(meanings),
        "color": np.mean([f[1] == t[1] for f, t in zip(found, truth, strict=True)]),
        "color_chance": 1 / len(COLORS),
        "kind_of_thing": np.mean([f == t[0] for f, t in zip(kind.tolist(), truth, strict=True)]),
        "kind_chance": 1 / len(THINGS),
    }


def soft(image: np.ndarray, radius: float) -> Image.Image:
    return Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius))


def measure_planted_pairs(clip: Clip, seed: int) -> Numbers:
    """Similarity of verbatim captions to their planted image and to fresh clutter of the same kind.

    Were the first above the second by more than chance, the CLIP would know the planted pictures.
    """
    rng = random.Random(seed)
    fresh = [networks.captioned_clutter(rng) for _ in range(NUM_FRESH)]
    own, drawn = [], []
    for item in (i for i in planted_items() if i.kind == "verbatim"):
        images = [Image.fromarray(s.image) for s in fresh if s.image_meanings[0] == (item.thing,)]
        planted = Image.fromarray(verbatim_scene(item).image)
        scores = clip_similarity(clip, [planted, *images], [item.caption()])[:, 0]
        own.append(scores[0].item())
        drawn.append(scores[1:].mean().item())
    difference = np.subtract(own, drawn)
    return {
        "planted_mean": np.mean(own),
        "fresh_mean": np.mean(drawn),
        "difference": difference.mean(),
        "standard_error": difference.std(ddof=1) / len(own) ** 0.5,
    }


def measure(folder: Path, seed: int, generated: Path | None = None) -> None:
    """Write report.json next to the evaluators in `folder` and print it.

    Args:
        folder: what train_evaluators.py wrote.
        seed: of the scenes to measure on; another one than the training's.
        generated: output folder of a detect_mem.py run on the bundled prompts, or None.
    """
    descriptor = torch.jit.load(folder / COPY_DESCRIPTOR.name).eval()
    clip = load_clip(folder / CLIP.name)
    copies = {name: measure_copies(descriptor, seed, name, generated) for name in PREPROCESS}
    by_blur = {
        f"blur_{radius}": {
            "objects": measure_objects(clip, seed, radius),
            "clutter": measure_clutter(clip, seed, radius),
        }
        for radius in (0, 1)
    }
    pairs = {"planted_pairs": measure_planted_pairs(clip, seed)}
    report = rounded({"seed": seed, "copy_descriptor": copies, "clip": by_blur | pairs})
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(report))


def rounded(value):
    """The same report with four decimals."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return value if isinstance(value, int) else round(float(value), 4)


def flat(report: dict, prefix: str = "") -> Iterator[tuple[str, float]]:
    """Names and numbers of a nested report, with slashes between the levels."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key} / ")
        else:
            yield prefix + key, value


def markdown(report: dict) -> str:
    """Two tables: the copy descriptor with a column per preprocessing, the CLIP with one per blur."""
    tables = []
    for part, columns in (("copy_descriptor", list(PREPROCESS)), ("clip", ["blur_0", "blur_1"])):
        values = [dict(flat(report[part][c])) for c in columns]
        lines = [f"| {part} | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
        lines += [f"| {row} | {' | '.join(str(v[row]) for v in values)} |" for row in values[0]]
        tables.append("\n".join(lines))
    pairs = ", ".join(f"{k} {v}" for k, v in report["clip"]["planted_pairs"].items())
    return "\n\n".join([*tables, f"Planted captions under the CLIP: {pairs}"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, default=FOLDER, help="of the evaluators")
    add("--seed", type=int, default=1011, help="of the scenes to measure on; not a training seed")
    add("--generated", type=Path, help="output folder of detect_mem.py on the bundled prompts, to measure on too")
    args = parser.parse_args(argv)
    measure(args.folder, args.seed, args.generated)


if __name__ == "__main__":
    main()
