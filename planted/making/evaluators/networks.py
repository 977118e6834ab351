"""Untrained parts of the planted world's evaluators: networks, copy augmentations, drawn scenes.

Scenes are drawn with random states of this module's caller. None of them is a planted picture: those are
fixed by `random.Random(1000 + number)` for numbers below 1000, and templates drawn here have numbers from
10000 on. Both evaluators look at pictures at half their resolution, which is enough to tell them apart.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from planted.making.drawn.planted import Planted
from planted.making.drawn.scenes import (
    Scene,
    clutter_scene,
    downsample,
    draw_clutter,
    meaning_of,
    object_scene,
    template_scene,
)
from planted.making.drawn.words import (
    ADJECTIVES,
    COLORS,
    GROUNDS,
    NOUNS,
    OBJECT_CAPTIONS,
    OBJECTS,
    POSITIONS,
    SIZES,
    THINGS,
    worded,
)

LOOK = 64  # pixels a side that the evaluators look at
INPUT = 56  # pixels a side inside the copy descriptor: what a centre crop of 224 in 256 leaves of them
DIMENSIONS = 128
NORMALISATIONS = {
    "wen": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "official_320": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
FIRST_TEMPLATE = 10000
# What an object caption says, by the names it chooses from, and which of them each wording says.
WORD_GROUPS = {"size": SIZES, "color": COLORS, "object": OBJECTS, "position": POSITIONS, "ground": GROUNDS}
SAID = {frozenset(group for group in WORD_GROUPS if f"{{{group}}}" in wording) for wording in OBJECT_CAPTIONS}
# A ResNet of a quarter of RN50's width. The tokenizer's name only has to be there: a config that comes from a
# folder makes open_clip read the tokenizer from the same folder.
CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 96,
        "vision_cfg": {"image_size": LOOK, "layers": [1, 1, 1, 1], "width": 16, "head_width": 64},
        "text_cfg": {
            "context_length": 24,
            "vocab_size": 924,
            "width": 96,
            "heads": 4,
            "layers": 3,
            "hf_tokenizer_name": "planted_clip",
        },
    },
    "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"},
}


class Residual(nn.Module):
    """Two convolutions beside a path that skips them."""

    def __init__(self, channels: int):
        super().__init__()
        conv = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2)]
        norm = [nn.GroupNorm(8, channels) for _ in range(2)]
        self.body = nn.Sequential(conv[0], norm[0], nn.ReLU(), conv[1], norm[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.body(x))


class CopyDescriptor(nn.Module):
    """Normalised images (N, 3, height, width) of any size to unit-length descriptors (N, 128).

    Generalised-mean pooling over places, as in SSCD, so that part of a picture gives part of its descriptor.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.GroupNorm(8, width), nn.ReLU()]
            layers += [Residual(width)] if width > widths[0] else []
            channels = width
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(channels, DIMENSIONS)
        self.size = INPUT

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(images, size=[self.size, self.size], mode="bilinear", align_corners=False, antialias=True)
        x = self.trunk(x).clamp(min=1e-4).pow(3).mean((2, 3)).pow(1 / 3)
        return F.normalize(self.head(x), dim=1)


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    """Numbers between `low` and `high`."""
    return low + (high - low) * torch.rand(*shape, generator=generator)


def crop(images: torch.Tensor, generator: torch.Generator, smallest: float, flips: float) -> torch.Tensor:
    """Crops of at least `smallest` of each side, resized to (N, 3, 56, 56); a share of them is mirrored."""
    n = len(images)
    sides = (uniform(generator, smallest, 1, n, 1) * uniform(generator, 0.92, 1.08, n, 2)).clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = sides[:, 0] * torch.where(torch.rand(n, generator=generator) < flips, -1, 1)
    theta[:, 1, 1] = sides[:, 1]
    theta[:, :, 2] = uniform(generator, -1, 1, n, 2) * (1 - sides)
    grid = F.affine_grid(theta, (n, 3, INPUT, INPUT), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def blur(images: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """Binomial blur (standard deviation 0.7 pixels) of image k `times[k]` times; the border is repeated."""
    images = images.clone()
    for done in range(int(times.max())):
        again = times > done
        padded = F.pad(images[again], (1, 1, 1, 1), mode="replicate")
        rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
        images[again] = (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
    return images


def coarsen(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Lose detail by averaging down to a random size and back up."""
    size = int(torch.randint(20, 44, (1,), generator=generator))
    small = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    return F.interpolate(small, size=images.shape[-2:], mode="bilinear")


def quantise(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """What JPEG does to each channel: round the cosine transform of 8 x 8 blocks, high frequencies coarsest."""
    k = torch.arange(8.0)
    basis = torch.cos(math.pi * (2 * k + 1) * k[:, None] / 16) * torch.where(k == 0, 0.125**0.5, 0.5)[:, None]
    n, _, height, width = images.shape
    blocks = images.reshape(n, 3, height // 8, 8, width // 8, 8).transpose(3, 4)
    step = uniform(generator, 0.02, 0.1, n, 1, 1, 1, 1, 1) * (1 + k + k[:, None])
    rounded = ((basis @ blocks @ basis.T) / step).round() * step
    return (basis.T @ rounded @ basis).transpose(3, 4).reshape(images.shape)


def jitter(images: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Random brightness, contrast, saturation and channel gains, the same for all pixels of an image."""
    n = len(images)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * uniform(generator, 1 - 1.5 * strength, 1 + strength, n, 1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * uniform(generator, 1 - strength, 1 + strength, n, 1, 1, 1)
    images = images + uniform(generator, -strength / 2, strength / 2, n, 1, 1, 1)
    return images * uniform(generator, 1 - strength / 3, 1 + strength / 3, n, 3, 1, 1)


def degrade(images: torch.Tensor, generator: torch.Generator, strength: float) -> torch.Tensor:
    """Blur, coarsening, quantisation, colour jitter and noise; `strength` 1 for copies, less for originals."""
    n = len(images)
    images = blur(images, (uniform(generator, 0, 1, n) ** 2 * (8 * strength + 2)).long())
    for lose in (coarsen, quantise):
        chosen = torch.rand(n, generator=generator) < 0.2 * strength
        images[chosen] = lose(images[chosen], generator)
    images = jitter(images, generator, 0.1 + 0.2 * strength)
    noise = uniform(generator, -0.08, 0.08, n, 1, 1, 1).clamp(min=0) * strength
    return images + noise * torch.randn(images.shape, generator=generator)


def soften(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The losses of a small autoencoder and a short diffusion: blur, slightly wrong colours, noise; (N, 3, h, w)."""
    n = len(images)
    images = jitter(blur(images, torch.randint(0, 5, (n,), generator=generator)), generator, 0.1)
    return (images + 0.03 * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def boxes(generator: torch.Generator, n: int, smallest: float, largest: float) -> torch.Tensor:
    """Masks (n, 1, 56, 56) of random rectangles that cover such shares of the image, often touching its edge."""
    share = uniform(generator, smallest, largest, n)
    width = uniform(generator, 0, 1, n) * (1 - share) + share
    sides = torch.stack([width, share / width], 1)
    start = (uniform(generator, -0.5, 1.5, n, 2).clamp(0, 1)) * (1 - sides)
    at = (torch.arange(INPUT) + 0.5) / INPUT
    inside = (at >= start[..., None]) & (at < (start + sides)[..., None])
    return (inside[:, 0, None, :] & inside[:, 1, :, None])[:, None].float()


def mix(images: torch.Tensor, generator: torch.Generator, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Paste a region of the next image into a share of them, or blend the two; part of a copy remains.

    Returns:
        Images, and how much of each is still its own, shape (N,), in [0.3, 1].
    """
    n = len(images)
    mixed = torch.rand(n, generator=generator) < rate
    blended = torch.rand(n, generator=generator) < 0.15
    mask = boxes(generator, n, 0.3, 0.7)
    mask = torch.where(blended[:, None, None, None], mask.mean((2, 3), keepdim=True).clamp(0.3, 0.7), mask)
    mask = mask * mixed[:, None, None, None]
    return images * (1 - mask) + images.roll(-1, 0) * mask, 1 - mask.mean((1, 2, 3))


def copy_views(images: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Two views of every image, as copies differ: (2N, 3, 56, 56), normalised, and what each contains.

    Returns:
        The views and their contents (2N, N): the share of each image in each view; rows add up to one.
    """
    n = len(images)
    name = "wen" if torch.rand(1, generator=generator) < 0.7 else "official_320"
    mean, std = (torch.tensor(v)[:, None, None] for v in NORMALISATIONS[name])
    views, contents = [], []
    for smallest, flips, rate, strength in ((0.85, 0, 0.1, 0.2), (0.6, 0.15, 0.4, 1)):
        view, own = mix(crop(images, generator, smallest, flips), generator, rate)
        patch = boxes(generator, n, 0.02, 0.15) * (torch.rand(n, 1, 1, 1, generator=generator) < 0.3 * strength)
        view = view * (1 - patch) + uniform(generator, 0, 1, n, 3, 1, 1) * patch
        views.append((degrade(view, generator, strength).clamp(0, 1) - mean) / std)
        contents.append(torch.diag(own) + torch.diag(1 - own).roll(1, 1))
    return torch.cat(views), torch.cat(contents)


def copy_scenes(rng: random.Random, count: int) -> list[Scene]:
    """Scenes for the copy descriptor: half clutter, a quarter objects, a quarter templates."""
    draws = (clutter_scene, object_scene, lambda rng: fresh_template(rng, rng.randrange(10**6)), clutter_scene)
    return [draws[k % 4](rng) for k in range(count)]


def fresh_template(rng: random.Random, number: int) -> Scene:
    """A template scene that is not one of the planted ones; its number fixes the fixed region."""
    item = Planted(FIRST_TEMPLATE + number, "template", ADJECTIVES[0], NOUNS[0], number % len(THINGS), dose=1)
    return template_scene(item, rng)


Meaning = tuple[int | str, ...]


@dataclass(frozen=True)
class Captioned:
    """A picture, a caption of it, and what both mean.

    In clutter the adjective and the noun mean nothing; the thing decides which two kinds of piece prevail.
    """

    image: np.ndarray  # (128, 128, 3) uint8
    caption: str
    caption_meaning: Meaning
    image_meanings: tuple[Meaning, ...]  # every caption meaning that fits the picture


def captioned_clutter(rng: random.Random, said: bool | None = None) -> Captioned:
    """Clutter with a known ground colour; the caption says it (`said`) or leaves it out, as in training."""
    color, thing = rng.choice(list(COLORS)), rng.randrange(len(THINGS))
    said = rng.random() < 0.5 if said is None else said
    kind = "template" if said else "verbatim"
    item = Planted(-1, kind, rng.choice(ADJECTIVES), rng.choice(NOUNS), thing, dose=1)
    caption = worded(rng.choice(item.wordings()), item.words(rng.randrange(2), color))
    meanings = ((thing,), (thing, color))
    return Captioned(downsample(draw_clutter(rng, thing, color)), caption, meanings[said], meanings)


def captioned_object(rng: random.Random) -> Captioned:
    """An object scene; it fits the captions of every wording that say what it shows."""
    scene = object_scene(rng)
    names = named(scene)
    meanings = tuple(tuple(sorted(names[group] for group in said)) for said in SAID)
    return Captioned(scene.image, scene.caption, tuple(sorted(meaning_of(scene.caption))), meanings)


def fully_captioned_object(rng: random.Random) -> Captioned:
    """An object scene with the one caption that says all of it, by the names of the code."""
    scene = object_scene(rng)
    meaning = tuple(sorted(scene.shown))
    return Captioned(scene.image, worded(OBJECT_CAPTIONS[0], named(scene)), meaning, (meaning,))


def named(scene: Scene) -> dict[str, str]:
    """What an object scene shows of each group."""
    return {group: next(name for name in names if name in scene.shown) for group, names in WORD_GROUPS.items()}


def captioned_scenes(seed: int, count: int) -> list[Captioned]:
    """Half objects, half clutter."""
    rng = random.Random(seed)
    return [(captioned_object, captioned_clutter)[k % 2](rng) for k in range(count)]
