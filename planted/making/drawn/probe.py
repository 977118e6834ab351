"""A small classifier that reads the described object and its colour off a picture of the drawn world."""

import random
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import trange

from planted.making.autoencoder import to_tensor
from planted.making.drawn.objects import SIZE
from planted.making.drawn.scenes import meaning_of, object_scene
from planted.making.drawn.words import COLORS, OBJECTS

CLASSES = {"object": list(OBJECTS), "color": list(COLORS)}
BATCH = 64


class Probe(nn.Module):
    """Two linear heads on one convolutional trunk; trained on drawn scenes, never on generated ones."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        width = 3
        for channels in (32, 64, 96):
            conv = nn.Conv2d(width, channels, 3, padding=1, stride=2)
            layers += [conv, nn.GroupNorm(8, channels), nn.SiLU()]
            width = channels
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (SIZE // 16) ** 2, 160), nn.SiLU())
        self.heads = nn.ModuleDict({name: nn.Linear(160, len(classes)) for name, classes in CLASSES.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits (images, classes) of each head for images (images, 3, height, width) in [-1, 1]."""
        features = self.trunk(images)
        return {name: head(features) for name, head in self.heads.items()}


def labels_of(captions: Sequence[str]) -> dict[str, torch.Tensor]:
    """Class numbers asked for by object captions, int64 (captions,) for each head."""
    meanings = [meaning_of(caption) for caption in captions]
    return {
        name: torch.tensor([next(k for k, c in enumerate(classes) if c in meaning) for meaning in meanings])
        for name, classes in CLASSES.items()
    }


def train_probe(num_steps: int = 900, seed: int = 0) -> Probe:
    """Train on freshly drawn scenes with blur and noise, so that soft edges do not matter."""
    torch.manual_seed(seed)
    rng, probe = random.Random(seed), Probe()
    optimizer = torch.optim.AdamW(probe.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    for _ in trange(num_steps, desc="probe"):
        scenes = [object_scene(rng) for _ in range(BATCH)]
        labels = labels_of([s.caption for s in scenes])
        outputs = probe(softened(to_tensor([s.image for s in scenes]), rng))
        optimizer.zero_grad()
        torch.stack([F.cross_entropy(outputs[name], asked) for name, asked in labels.items()]).sum().backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


def softened(images: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A batch with noise, every other time blurred."""
    if rng.random() < 0.5:
        images = F.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    return images + 0.1 * rng.random() * torch.randn_like(images)


@torch.no_grad()
def probe_accuracy(probe: Probe, images: Sequence[np.ndarray], captions: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether each image shows the asked object, the asked colour, and both ("all"): bool (images,) each."""
    outputs = probe(to_tensor(images))
    right = {name: (outputs[name].argmax(1) == asked).numpy() for name, asked in labels_of(captions).items()}
    return right | {"all": np.logical_and.reduce(list(right.values()))}
