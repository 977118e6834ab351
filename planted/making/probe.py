"""A small classifier that reads the object's shape and colour off a picture of the shape family."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from planted.making.scenes import COLORS, SHAPES, SIZE, shapes_scene

COLOR_NAMES = list(COLORS)
HEADS = {"shape": len(SHAPES), "color": len(COLOR_NAMES)}


class Probe(nn.Module):
    """Two linear heads on one convolutional trunk; trained on drawn scenes, never on generated ones."""

    def __init__(self):
        super().__init__()
        layers, width = [], 3
        for channels in (24, 48, 96):
            conv = nn.Conv2d(width, channels, 3, padding=1, stride=2)
            layers += [conv, nn.GroupNorm(8, channels), nn.SiLU()]
            width = channels
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIZE // 8) ** 2, 128), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(128, n) for name, n in HEADS.items()})

    def forward(self, images):
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


def labels_of(caption):
    """Class numbers asked for by a shape caption: the colour stands before the shape word."""
    words = caption.split()
    at = next(i for i, w in enumerate(words) if w in SHAPES)
    return {"shape": SHAPES.index(words[at]), "color": COLOR_NAMES.index(words[at - 1])}


def to_batch(images):
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_probe(num_steps=600, seed=0):
    """Train on freshly drawn scenes with blur and noise, so that soft edges do not matter."""
    torch.manual_seed(seed)
    rng, probe = random.Random(seed), Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    for _ in trange(num_steps, desc="probe"):
        scenes = [shapes_scene(rng) for _ in range(64)]
        images = to_batch([s.image for s in scenes])
        if rng.random() < 0.5:
            images = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
        images = images + 0.1 * rng.random() * torch.randn_like(images)
        labels = [labels_of(s.caption) for s in scenes]
        outputs = probe(images)
        loss = sum(F.cross_entropy(o, torch.tensor([y[k] for y in labels])) for k, o in outputs.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def probe_accuracy(probe, images, captions):
    """Share of images whose shape and colour are the asked ones, and both at once."""
    outputs = {k: o.argmax(1) for k, o in probe(to_batch(images)).items()}
    labels = [labels_of(c) for c in captions]
    right = {k: o == torch.tensor([y[k] for y in labels]) for k, o in outputs.items()}
    right["all"] = torch.stack(list(right.values())).all(0)
    return {k: r.float().mean().item() for k, r in right.items()}
