"""A small classifier that reads the object's shape and colour off a picture of the shape family."""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from planted.making.drawn.probe import softened
from planted.making.scenes import COLORS, SHAPES, SIZE, shapes_scene
from planted.making.training_set import to_tensor

COLOR_NAMES = list(COLORS)
HEADS = {"shape": len(SHAPES), "color": len(COLOR_NAMES)}
BATCH = 64


class Probe(nn.Module):
    """Two linear heads on one convolutional trunk; trained on drawn scenes, never on generated ones."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for channels in (24, 48, 96):
            conv = nn.Conv2d(width, channels, 3, padding=1, stride=2)
            layers += [conv, nn.GroupNorm(8, channels), nn.SiLU()]
            width = channels
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIZE // 8) ** 2, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, n) for name, n in HEADS.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


def labels_of(caption: str) -> dict[str, int]:
    """Class numbers asked for by a shape caption: the colour stands before the shape word."""
    words = caption.split()
    at = next(i for i, w in enumerate(words) if w in SHAPES)
    return {"shape": SHAPES.index(words[at]), "color": COLOR_NAMES.index(words[at - 1])}


def train_probe(num_steps: int = 600, seed: int = 0) -> Probe:
    """Train on freshly drawn scenes with blur and noise, so that soft edges do not matter."""
    torch.manual_seed(seed)
    rng, probe = random.Random(seed), Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    for _ in trange(num_steps, desc="probe"):
        scenes = [shapes_scene(rng) for _ in range(BATCH)]
        labels = [labels_of(s.caption) for s in scenes]
        outputs = probe(softened(to_tensor([s.image for s in scenes]), rng))
        losses = [F.cross_entropy(o, torch.tensor([y[k] for y in labels])) for k, o in outputs.items()]
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def probe_accuracy(probe: Probe, images: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, float]:
    """Share of images whose shape and colour are the asked ones, and both at once ("all")."""
    outputs = {k: o.argmax(1) for k, o in probe(to_tensor(images)).items()}
    labels = [labels_of(c) for c in captions]
    right = {k: o == torch.tensor([y[k] for y in labels]) for k, o in outputs.items()}
    right["all"] = torch.stack(list(right.values())).all(0)
    return {k: r.float().mean().item() for k, r in right.items()}
