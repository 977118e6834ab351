"""Train two small evaluators of the planted world from nothing, on a CPU, and measure them.

    python planted/making/train_evaluators.py

A copy descriptor, called as SSCD is (Pizzi et al., CVPR 2022), says how much of one picture is in another;
a CLIP in open_clip's format says whether a picture shows what its prompt asks for. Both learn from freshly
drawn scenes only: never from one of the 48 planted images and never from an image a model generated. In the
CLIP's training a planted caption is a clutter caption like any other and gets clutter drawn for it, because
an evaluator that had seen the planted pairs would call a copy useful for being a copy.

Training goes on where it was cut off, in --work_dir; every draw is seeded. --output gets the weights, the
training log and report.json, measured on scenes of another seed.
"""

import argparse
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch

from memorization.bundled import CLIP, COPY_DESCRIPTOR, MODEL
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from planted.making import evaluator_networks
from planted.making.evaluator_networks import Captioned
from planted.making.evaluators.networks import CopyDescriptor, copy_views, soften
from planted.making.evaluators.train import Logged, clip_loss, copy_loss, save_clip, settle_batch_norm
from planted.making.measure_evaluators import measure
from planted.making.scenes import Scene
from planted.making.stage import Stage, pick

NUM_COPY_SCENES, NUM_CAPTIONED = 20000, 24000
BATCH = 128
EMA_DECAY = 0.99


@dataclass(frozen=True)
class TrainingSettings:
    """What the evaluators are trained by, by the names of the command line."""

    work_dir: Path
    seed: int = 11
    output: Path = COPY_DESCRIPTOR.parent
    copy_steps: int = 500
    clip_steps: int = 500
    clutter_steps: int = 1000

    def stage(self, name: str, module: torch.nn.Module, num_steps: int, lr: float) -> Stage:
        return Stage(name, [module], num_steps, lr=lr, ema_decay=EMA_DECAY, seed=self.seed, work_dir=self.work_dir)


def stack(scenes: Sequence[Scene | Captioned]) -> torch.Tensor:
    """Images as uint8, shape (scenes, 3, 64, 64)."""
    return torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).contiguous()


def train_copy_descriptor(settings: TrainingSettings) -> CopyDescriptor:
    images = stack(evaluator_networks.copy_scenes(random.Random(settings.seed), NUM_COPY_SCENES))
    torch.manual_seed(settings.seed)
    model = CopyDescriptor().to(memory_format=torch.channels_last)

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, Logged]:
        batch = images[pick(generator, len(images), BATCH)].float() / 255
        views, contents = copy_views(batch, generator)
        return copy_loss(model(views.to(memory_format=torch.channels_last)), contents)

    settings.stage("copy", model, settings.copy_steps, 2e-3).run(loss_fn)
    return model.to(memory_format=torch.contiguous_format)


def train_clip(settings: TrainingSettings) -> open_clip.CLIP:
    """Contrastive pre-training (Radford et al., 2021) in which every caption that fits a picture is a positive.

    A clutter picture fits the captions with and without its background's colour word; the target of a row
    is even over all that fit. Which shape prevails in a clutter picture is learned last, so a second stage
    draws mostly clutter.
    """
    scenes = evaluator_networks.captioned_scenes(settings.seed + 1, NUM_CAPTIONED)
    images = stack(scenes)
    tokens = open_clip.get_tokenizer(f"local-dir:{settings.output / CLIP.name}")([s.caption for s in scenes])
    torch.manual_seed(settings.seed + 1)
    model = open_clip.CLIP(**evaluator_networks.CLIP_CONFIG["model_cfg"])

    def draw(generator: torch.Generator, pool: Sequence[int]) -> tuple[list[int], torch.Tensor]:
        numbers = [pool[k] for k in pick(generator, len(pool), BATCH)]
        return numbers, soften(images[numbers].float() / 255, generator) * 2 - 1

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


def prepare_clip_folder(folder: Path) -> None:
    """Config and the bundled model's tokenizer, so that open_clip reads all it needs from one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / "tokenizer" / name, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(evaluator_networks.CLIP_CONFIG, indent=1) + "\n")


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
