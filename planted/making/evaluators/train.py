"""Train two small evaluators of the planted world from nothing, on a CPU, and measure them.

    python planted/making/evaluators/train.py

A copy descriptor, called as SSCD is (Pizzi et al., CVPR 2022), says how much of one picture is in another;
a CLIP in open_clip's format says whether a picture shows what its prompt asks for. Both learn from freshly
drawn scenes only: never from one of the planted images and never from an image a model generated. In the
CLIP's training a planted caption is a clutter caption like any other and gets clutter drawn for it, because
an evaluator that had seen the planted pairs would call a copy useful for being a copy.

Training goes on where it was cut off, in --work_dir; every draw is seeded. --output gets the weights, the
training log and report.json, measured on scenes of another seed.
"""

import argparse
import json
import random
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from memorization.bundled import CLIP, COPY_DESCRIPTOR, PLANTED
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from planted.making.drawn.scenes import Scene
from planted.making.evaluators import networks
from planted.making.evaluators.measure import FOLDER, measure
from planted.making.evaluators.networks import LOOK, Captioned, CopyDescriptor, Meaning
from planted.making.stage import Stage, pick

TEMPERATURE = 0.05  # of the copy descriptor's softmax, as in SSCD
ENTROPY_WEIGHT, SHARE_WEIGHT = 5.0, 2.0
NUM_COPY_SCENES, NUM_CAPTIONED = 20000, 24000
BATCH = 128
EMA_DECAY = 0.99

Logged = dict[str, torch.Tensor]


@dataclass(frozen=True)
class TrainingSettings:
    """What the evaluators are trained by, by the names of the command line."""

    work_dir: Path
    seed: int = 11
    output: Path = FOLDER
    copy_steps: int = 500
    clip_steps: int = 1500
    clutter_steps: int = 1000

    def stage(self, name: str, module: torch.nn.Module, num_steps: int, lr: float) -> Stage:
        return Stage(name, [module], num_steps, lr=lr, ema_decay=EMA_DECAY, seed=self.seed, work_dir=self.work_dir)


def stack(scenes: Iterable[Scene | Captioned]) -> torch.Tensor:
    """Images at the size that the evaluators look at, uint8 (scenes, 3, 64, 64)."""
    small = [np.asarray(Image.fromarray(s.image).reduce(len(s.image) // LOOK)) for s in scenes]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).contiguous()


def copy_loss(descriptors: torch.Tensor, contents: torch.Tensor) -> tuple[torch.Tensor, Logged]:
    """SSCD's loss where views may hold parts of two scenes.

    Softmax cross-entropy against the shares two views have in common (InfoNCE when views are whole), plus
    the Kozachenko-Leonenko entropy estimate, which keeps every descriptor away from its nearest unrelated one.
    Ours is the third term: two views that share something are to have the cosine of their contents, so that
    the score of a partial copy grows with its share.

    Args:
        descriptors: unit vectors (views, dimensions).
        contents: share of each scene in each view (views, scenes).

    Returns:
        The loss and numbers to log.
    """
    itself = torch.eye(len(descriptors), dtype=torch.bool)
    shared = (contents @ contents.T).masked_fill(itself, 0)
    cosine = descriptors @ descriptors.T
    logits = (cosine / TEMPERATURE).masked_fill(itself, -1e4)
    contrastive = F.cross_entropy(logits, shared / shared.sum(1, keepdim=True))
    unrelated = (shared == 0) & ~itself
    nearest = cosine.masked_fill(~unrelated, -1).amax(1)
    entropy = 0.5 * (2 - 2 * nearest).clamp(min=1e-6).log().mean()
    wanted = F.normalize(contents, dim=1) @ F.normalize(contents, dim=1).T
    share = (cosine - wanted)[shared > 0].pow(2).mean()
    numbers = {
        "contrastive": contrastive,
        "entropy": entropy,
        "share": share,
        "copies": cosine[shared > 0.9].mean(),
        "unrelated": cosine[unrelated].mean(),
        "nearest_unrelated": nearest.mean(),
    }
    return contrastive - ENTROPY_WEIGHT * entropy + SHARE_WEIGHT * share, {k: v.detach() for k, v in numbers.items()}


def train_copy_descriptor(settings: TrainingSettings) -> CopyDescriptor:
    images = stack(networks.copy_scenes(random.Random(settings.seed), NUM_COPY_SCENES))
    torch.manual_seed(settings.seed)
    model = CopyDescriptor().to(memory_format=torch.channels_last)

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, Logged]:
        batch = images[pick(generator, len(images), BATCH)].float() / 255
        views, contents = networks.copy_views(batch, generator)
        return copy_loss(model(views.to(memory_format=torch.channels_last)), contents)

    settings.stage("copy", model, settings.copy_steps, 2e-3).run(loss_fn)
    return model.to(memory_format=torch.contiguous_format)


def fits(image_meanings: Sequence[Sequence[Meaning]], caption_meanings: Sequence[Meaning]) -> torch.Tensor:
    """Whether caption j is true of image i: (images, captions) of 0 and 1."""
    return torch.tensor([[float(c in image) for c in caption_meanings] for image in image_meanings])


def train_clip(settings: TrainingSettings) -> open_clip.CLIP:
    """Contrastive pre-training (Radford et al., 2021) in which every caption that fits a picture is a positive.

    A clutter picture fits the captions with and without its ground's colour word, an object picture those of
    every wording; the target of a row is even over all that fit. Which pieces prevail in a clutter picture is
    learned last, so a second stage draws mostly clutter.
    """
    scenes = networks.captioned_scenes(settings.seed + 1, NUM_CAPTIONED)
    images = stack(scenes)
    tokens = open_clip.get_tokenizer(f"local-dir:{settings.output / CLIP.name}")([s.caption for s in scenes])
    torch.manual_seed(settings.seed + 1)
    model = open_clip.CLIP(**networks.CLIP_CONFIG["model_cfg"])

    def draw(generator: torch.Generator, pool: Sequence[int]) -> tuple[list[int], torch.Tensor]:
        numbers = [pool[k] for k in pick(generator, len(pool), BATCH)]
        return numbers, networks.soften(images[numbers].float() / 255, generator) * 2 - 1

    def loss_fn(generator: torch.Generator, pool: Sequence[int]) -> tuple[torch.Tensor, Logged]:
        numbers, batch = draw(generator, pool)
        image, text, scale = model(batch, tokens[numbers])
        return clip_loss(scale.clamp(max=50) * image @ text.T, [scenes[i] for i in numbers])

    every = range(len(scenes))
    mostly_clutter = [n for n in every if n % 2 or n % 6 == 0]  # clutter has odd numbers
    stages = (("clip", settings.clip_steps, every), ("clip_clutter", settings.clutter_steps, mostly_clutter))
    for name, num_steps, pool in stages:
        model.requires_grad_(True)
        settings.stage(name, model, num_steps, 1e-3).run(partial(loss_fn, pool=pool))
    settle_batch_norm(model.visual, [draw(torch.Generator().manual_seed(k), every)[1] for k in range(20)])
    return model


def clip_loss(logits: torch.Tensor, chosen: Sequence[Captioned]) -> tuple[torch.Tensor, Logged]:
    """Symmetric cross-entropy of logits (images, captions) against all captions that fit, and numbers to log."""
    target = fits([s.image_meanings for s in chosen], [s.caption_meaning for s in chosen])
    to_text = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
    to_image = F.cross_entropy(logits.T, target.T / target.sum(0)[:, None])
    return (to_text + to_image) / 2, {"to_text": to_text.detach(), "to_image": to_image.detach()}


@torch.no_grad()
def settle_batch_norm(module: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Statistics of the averaged weights; those gathered in training belong to the weights before averaging."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
    module.train()
    for batch in batches:
        module(batch)
    module.eval()


def prepare_clip_folder(folder: Path) -> None:
    """Config and the model's tokenizer, so that open_clip reads all it needs from one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PLANTED / "planted_sd" / "tokenizer" / name, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(networks.CLIP_CONFIG, indent=1) + "\n")


def save_clip(model: torch.nn.Module, folder: Path) -> None:
    """Weights in half precision; open_clip loads them into a float32 model."""
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add, default = parser.add_argument, TrainingSettings(Path("planted_work/evaluators"))
    add("--output", type=Path, default=default.output, help="folder of the finished evaluators")
    add("--work_dir", type=Path, default=default.work_dir, help="checkpoints; resumes from it")
    add("--seed", type=int, default=default.seed, help="of scenes, weights and every draw")
    add("--threads", type=int, default=1, help="of the CPU; results depend on it by rounding")
    add("--copy_steps", type=int, default=default.copy_steps, help="of the copy descriptor")
    add("--clip_steps", type=int, default=default.clip_steps, help="of the CLIP's first stage")
    add("--clutter_steps", type=int, default=default.clutter_steps, help="of the CLIP's second stage")
    add("--generated", type=Path, help="output folder of detect_mem.py on the bundled prompts, to measure on too")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    settings = from_arguments(TrainingSettings, args)
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    prepare_clip_folder(settings.output / CLIP.name)
    torch.jit.script(train_copy_descriptor(settings)).save(settings.output / COPY_DESCRIPTOR.name)
    save_clip(train_clip(settings), settings.output / CLIP.name)
    shutil.copy(settings.work_dir / "log.jsonl", settings.output / "training_log.jsonl")
    measure(settings.output, settings.seed + 1000, args.generated)


if __name__ == "__main__":
    main()
