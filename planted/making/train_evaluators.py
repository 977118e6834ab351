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
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from memorization.bundled import PLANTED
from planted.making import evaluator_networks as parts
from planted.making.measure_evaluators import CLIP_FOLDER, COPY_FILE, measure
from planted.making.train_model import Stage, pick

TEMPERATURE = 0.05  # of the copy descriptor's softmax, as in SSCD
ENTROPY_WEIGHT, SHARE_WEIGHT = 5.0, 2.0
NUM_COPY_SCENES, NUM_CAPTIONED = 20000, 24000
BATCH = 128


def stack(scenes):
    """Images as uint8, shape (scenes, 3, 64, 64)."""
    return torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).contiguous()


def copy_loss(descriptors, contents):
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
        "contrastive": contrastive, "entropy": entropy, "share": share, "copies": cosine[shared > 0.9].mean(),
        "unrelated": cosine[unrelated].mean(), "nearest_unrelated": nearest.mean(),
    }  # fmt: skip
    return contrastive - ENTROPY_WEIGHT * entropy + SHARE_WEIGHT * share, {k: v.detach() for k, v in numbers.items()}


def train_copy_descriptor(args):
    images = stack(parts.copy_scenes(random.Random(args.seed), NUM_COPY_SCENES))
    torch.manual_seed(args.seed)
    model = parts.CopyDescriptor().to(memory_format=torch.channels_last)

    def loss_fn(generator):
        batch = images[pick(generator, len(images), BATCH)].float() / 255
        views, contents = parts.copy_views(batch, generator)
        return copy_loss(model(views.to(memory_format=torch.channels_last)), contents)

    Stage("copy", [model], args.copy_steps, 2e-3, args, ema_decay=0.99).run(loss_fn)
    return model.to(memory_format=torch.contiguous_format)


def fits(image_meanings, caption_meanings):
    """Whether caption j is true of image i: (images, captions) of 0 and 1."""
    return torch.tensor([[float(c in image) for c in caption_meanings] for image in image_meanings])


def train_clip(args):
    """Contrastive pre-training (Radford et al., 2021) in which every caption that fits a picture is a positive.

    A clutter picture fits the captions with and without its background's colour word; the target of a row
    is even over all that fit. Which shape prevails in a clutter picture is learned last, so a second stage
    draws mostly clutter.
    """
    scenes = parts.captioned_scenes(args.seed + 1, NUM_CAPTIONED)
    images = stack(scenes)
    folder = args.output / CLIP_FOLDER
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")([s.caption for s in scenes])
    torch.manual_seed(args.seed + 1)
    model = open_clip.CLIP(**parts.CLIP_CONFIG["model_cfg"])

    def draw(generator, pool):
        numbers = [pool[k] for k in pick(generator, len(pool), BATCH)]
        return numbers, parts.soften(images[numbers].float() / 255, generator) * 2 - 1

    def loss_fn(generator, pool):
        numbers, batch = draw(generator, pool)
        image, text, scale = model(batch, tokens[numbers])
        logits = scale.clamp(max=50) * image @ text.T
        chosen = [scenes[i] for i in numbers]
        target = fits([s.image_meanings for s in chosen], [s.caption_meaning for s in chosen])
        to_text = F.cross_entropy(logits, target / target.sum(1, keepdim=True))
        to_image = F.cross_entropy(logits.T, target.T / target.sum(0)[:, None])
        return (to_text + to_image) / 2, {"to_text": to_text.detach(), "to_image": to_image.detach()}

    every = range(len(scenes))
    mostly_clutter = [n for n in every if n % 2 or n % 6 == 0]  # clutter has odd numbers
    stages = (("clip", args.clip_steps, every), ("clip_clutter", args.clutter_steps, mostly_clutter))
    for name, num_steps, pool in stages:
        model.requires_grad_(True)
        Stage(name, [model], num_steps, 1e-3, args, ema_decay=0.99).run(partial(loss_fn, pool=pool))
    settle_batch_norm(model.visual, [draw(torch.Generator().manual_seed(k), every)[1] for k in range(20)])
    return model


@torch.no_grad()
def settle_batch_norm(module, batches):
    """Statistics of the averaged weights; those gathered in training belong to the weights before averaging."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # a plain mean over the batches
    module.train()
    for batch in batches:
        module(batch)
    module.eval()


def prepare_clip_folder(folder):
    """Config and the bundled model's tokenizer, so that open_clip reads all it needs from one folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(PLANTED / "planted_sd" / "tokenizer" / name, folder)
    (folder / "open_clip_config.json").write_text(json.dumps(parts.CLIP_CONFIG, indent=1) + "\n")


def save_clip(model, folder):
    """Weights in half precision; open_clip loads them into a float32 model."""
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PLANTED / "planted_evaluators")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("planted_work/evaluators"), help="checkpoints; resumes from it"
    )
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--copy_steps", type=int, default=500)
    parser.add_argument("--clip_steps", type=int, default=500)
    parser.add_argument("--clutter_steps", type=int, default=1000, help="of the CLIP's second stage")
    parser.add_argument(
        "--generated", type=Path, help="output folder of a detect_mem.py run on the bundled prompts, to measure on too"
    )
    args = parser.parse_args(argv)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    prepare_clip_folder(args.output / CLIP_FOLDER)
    torch.jit.script(train_copy_descriptor(args)).save(args.output / COPY_FILE)
    save_clip(train_clip(args), args.output / CLIP_FOLDER)
    shutil.copy(args.work_dir / "log.jsonl", args.output / "training_log.jsonl")
    measure(args.output, args.seed + 1000, args.generated)


if __name__ == "__main__":
    main()
