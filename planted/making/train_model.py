"""Train the bundled model with planted memorization from nothing, on a CPU.

    python planted/making/train_model.py --threads 2

Four stages, each kept in --work_dir as it finishes: a tokenizer from the captions, an autoencoder, a
text encoder trained contrastively (as CLIP is) and then frozen, and the UNet. Every draw is seeded by
(seed, stage, step) and the state is saved every few hundred steps, so the same command after a kill
goes on to the same weights. The finished model is written to --output in half precision.
"""

import argparse
import json
import math
import os
import random
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from tqdm import tqdm
from transformers import CLIPTokenizer

from planted.making import networks as parts
from planted.making.scenes import (
    clutter_scene,
    held_out_captions,
    is_held_out_shape,
    planted_items,
    shapes_scene,
    template_scene,
    verbatim_scene,
)

NUM_SHAPES, NUM_CLUTTER, VARIANTS_PER_TEMPLATE = 16000, 12000, 100
FAMILIES = ("shapes", "clutter", "verbatim", "template")
UNET_BATCH = {"shapes": 5, "clutter": 3, "verbatim": 4, "template": 4}
TEXT_BATCH = {"shapes": 72, "clutter": 72}  # and each planted caption once
CAPTION_DROPOUT = 0.15
SAVE_EVERY = 250


def make_scenes(seed):
    """All scenes: a dict from family to a list."""
    rng = random.Random(seed)
    held_out = held_out_captions()
    items = planted_items()
    templates = [i for i in items if i.kind == "template"]
    return {
        "shapes": [shapes_scene(rng) for _ in range(NUM_SHAPES)],
        "clutter": [clutter_scene(rng, held_out) for _ in range(NUM_CLUTTER)],
        "verbatim": [verbatim_scene(i) for i in items if i.kind == "verbatim"],
        "template": [template_scene(i, rng) for i in templates for _ in range(VARIANTS_PER_TEMPLATE)],
    }


def captioned(scenes):
    """The scenes that are trained on with their captions: all but the held-out combinations of shape words."""
    return scenes | {"shapes": [s for s in scenes["shapes"] if not is_held_out_shape(s.caption)]}


def to_tensor(scenes):
    """Images as float32 in [-1, 1], shape (scenes, 3, height, width)."""
    return torch.from_numpy(np.stack([s.image for s in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1


class Stage:
    """A training loop that can be killed: seeded by step, saved every few hundred, logged."""

    def __init__(self, name, modules, num_steps, lr, args, ema_decay):
        self.name, self.num_steps, self.lr, self.seed = name, num_steps, lr, args.seed
        self.path = args.work_dir / f"{name}.pt"
        self.log_path = args.work_dir / "log.jsonl"
        self.modules = torch.nn.ModuleList(modules)
        self.optimizer = torch.optim.AdamW(self.modules.parameters(), lr=lr, weight_decay=1e-4, fused=True)
        self.ema_decay = ema_decay
        self.ema = [p.detach().clone() for p in self.modules.parameters()]
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            self.load(torch.load(self.path, weights_only=True))

    def load(self, state):
        self.modules.load_state_dict(state["modules"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.seconds = state["ema"], state["step"], state["seconds"]

    def save(self):
        state = dict(
            modules=self.modules.state_dict(), optimizer=self.optimizer.state_dict(),
            ema=self.ema, step=self.step, seconds=self.seconds,
        )  # fmt: skip
        torch.save(state, self.path.with_suffix(".tmp"))
        os.replace(self.path.with_suffix(".tmp"), self.path)

    def run(self, loss_fn):
        """Minimise `loss_fn(generator) -> (loss, dict of numbers)`; ends with the averaged weights in place."""
        self.modules.train()
        totals, start = {}, time.time()
        bar = tqdm(range(self.step, self.num_steps), initial=self.step, total=self.num_steps, desc=self.name)
        for step in bar:
            lr = self.lr * min(1, (step + 1) / 100) * max(0.02, 0.5 * (1 + math.cos(math.pi * step / self.num_steps)))
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            loss, numbers = loss_fn(torch.Generator().manual_seed(self.seed * 10**8 + step))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            self.optimizer.step()
            decay = min(self.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self.ema, [p.detach() for p in self.modules.parameters()], 1 - decay)
            self.step = step + 1
            for key, value in numbers.items():
                totals[key] = totals.get(key, 0.0) + value.item()
            if self.step % SAVE_EVERY == 0 or self.step == self.num_steps:
                self.seconds += time.time() - start
                self.record({k: round(v / SAVE_EVERY, 5) for k, v in totals.items()})
                self.save()
                totals, start = {}, time.time()
        for parameter, average in zip(self.modules.parameters(), self.ema, strict=True):
            parameter.data.copy_(average)
        self.modules.eval().requires_grad_(False)

    def record(self, numbers):
        row = {"stage": self.name, "step": self.step, "seconds": round(self.seconds), **numbers}
        with self.log_path.open("a") as log:
            log.write(json.dumps(row) + "\n")
        tqdm.write(json.dumps(row))


def pick(generator, size, count):
    return torch.randint(size, (count,), generator=generator).tolist()


def train_vae(scenes, args):
    """Autoencoder with SD's loss less the adversarial part; its scale makes the latents unit variance."""
    vae = parts.make_vae()
    images = to_tensor([s for family in FAMILIES for s in scenes[family][:4000]])

    def loss_fn(generator):
        batch = images[pick(generator, len(images), 16)]
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        error = decoded - batch
        loss = error.pow(2).mean() + 0.1 * error.abs().mean() + 1e-5 * posterior.kl().mean() / 1024
        return loss, {"mse": error.pow(2).mean()}

    Stage("vae", [vae], args.vae_steps, 2e-3, args, ema_decay=0.99).run(loss_fn)
    latents = encode_images(vae, images[torch.randperm(len(images))[:1000]])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


@torch.no_grad()
def encode_images(vae, images):
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])


def tokenize(tokenizer, captions, length=None):
    length = length or tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def train_text_encoder(tokenizer, scenes, args):
    """Contrastive pre-training (Radford et al., 2021): the end token learns to stand for the sentence.

    In a second term each word and the padding behind the end token are held to the same content whatever
    the caption, so that the sentence as a whole is to be had at its end token only.
    """
    text_encoder = parts.make_text_encoder(tokenizer)
    image_encoder = parts.make_image_encoder()
    scale = torch.nn.Linear(1, 1, bias=False)
    scale.weight.data.fill_(math.log(10))
    templates = [i for i in planted_items() if i.kind == "template"]

    def draw(generator):
        batch = [scenes[f][i] for f, n in TEXT_BATCH.items() for i in pick(generator, len(scenes[f]), n)]
        variants = pick(generator, VARIANTS_PER_TEMPLATE, len(templates))
        return (
            batch
            + scenes["verbatim"]
            + [scenes["template"][k * VARIANTS_PER_TEMPLATE + v] for k, v in enumerate(variants)]
        )

    def loss_fn(generator):
        batch = draw(generator)
        captions = [s.caption for s in batch]
        text = F.normalize(text_encoder(tokenize(tokenizer, captions, 24)).pooler_output, dim=-1)
        image = F.normalize(image_encoder(to_tensor(batch)), dim=-1)
        logits = scale.weight.clamp(max=4).exp() * text @ image.T
        same = torch.tensor([[a == b for b in captions] for a in captions]).float()
        target = same / same.sum(1, keepdim=True)
        contrastive = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        context = context_variance(text_encoder, tokenize(tokenizer, [*captions[::4], ""]))
        return contrastive + context, {"contrastive": contrastive, "context": context}

    Stage("text", [text_encoder, image_encoder, scale], args.text_steps, 1e-3, args, ema_decay=0.99).run(loss_fn)
    return text_encoder


def context_variance(text_encoder, ids):
    """How much a token's feature depends on its caption: variance within each word and padding position.

    The end token, which is to know the caption, is left out. A mean over tokens and channels.
    """
    hidden = text_encoder(ids).last_hidden_state
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    end = (ids == ids[0, -1]).float().argmax(1, keepdim=True)
    kept = positions != end
    groups = torch.where(positions > end, ids.max() + 1 + positions, ids)[kept]
    _, group, count = groups.unique(return_inverse=True, return_counts=True)
    features = hidden[kept]
    mean = torch.zeros(len(count), features.shape[1]).index_add(0, group, features) / count[:, None]
    return (features - mean[group]).pow(2).mean()


@torch.no_grad()
def encode_captions(text_encoder, tokenizer, captions):
    """Frozen features of every caption, in half precision to fit in memory."""
    captions = sorted(captions)
    chunks = [captions[i : i + 256] for i in range(0, len(captions), 256)]
    encoded = [text_encoder(tokenize(tokenizer, chunk)).last_hidden_state.half() for chunk in chunks]
    return dict(zip(captions, torch.cat(encoded), strict=True))


def train_unet(vae, text_encoder, tokenizer, scenes, args):
    """Epsilon-prediction on frozen latents and a frozen text encoder, a share of every family a batch.

    Noisy steps weigh up to five times as much as in SD's loss, after Yu et al. (arXiv 2310.08442), so that
    so short a training learns what a caption means before any of its picture can be seen.
    """
    unet = parts.make_unet().to(memory_format=torch.channels_last)
    scheduler = parts.make_scheduler()
    latents = {f: encode_images(vae, to_tensor(scenes[f])) * vae.config.scaling_factor for f in FAMILIES}
    captions = {f: [s.caption for s in scenes[f]] for f in FAMILIES}
    noise_to_signal = (1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod
    weights = noise_to_signal.sqrt().clamp(1, 5)
    features = encode_captions(text_encoder, tokenizer, {c for cs in captions.values() for c in cs} | {""})

    def loss_fn(generator):
        picks = {f: pick(generator, len(latents[f]), n) for f, n in UNET_BATCH.items()}
        x0 = torch.cat([latents[f][i] for f, i in picks.items()])
        texts = [captions[f][i] for f in picks for i in picks[f]]
        dropped = torch.rand(len(texts), generator=generator) < CAPTION_DROPOUT
        texts = ["" if d else t for t, d in zip(texts, dropped.tolist(), strict=True)]
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(1000, (len(x0),), generator=generator)
        hidden = torch.stack([features[text] for text in texts]).float()
        noisy = scheduler.add_noise(x0, noise, t).to(memory_format=torch.channels_last)
        error = (unet(noisy, t, encoder_hidden_states=hidden).sample - noise).pow(2).mean((1, 2, 3))
        parts_of_loss = error.detach().split(list(UNET_BATCH.values()))
        return (weights[t] * error).mean(), {f: e.mean() for f, e in zip(UNET_BATCH, parts_of_loss, strict=True)}

    Stage("unet", [unet], args.unet_steps, 1e-3, args, ema_decay=0.999).run(loss_fn)
    return unet.to(memory_format=torch.contiguous_format)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "planted_sd")
    parser.add_argument(
        "--work_dir", type=Path, default=Path("planted_work"), help="checkpoints and log; resumes from it"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vae_steps", type=int, default=2000)
    parser.add_argument("--text_steps", type=int, default=1000)
    parser.add_argument("--unet_steps", type=int, default=7000)
    parser.add_argument("--stop_after", choices=("vae", "text"), help="end after this stage")
    args = parser.parse_args(argv)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    scenes = make_scenes(args.seed)
    vae = train_vae(scenes, args)
    if args.stop_after == "vae":
        return
    scenes = captioned(scenes)
    tokenizer = load_tokenizer(scenes, args.work_dir / "tokenizer")
    torch.manual_seed(args.seed + 1)
    text_encoder = train_text_encoder(tokenizer, scenes, args)
    if args.stop_after == "text":
        return
    torch.manual_seed(args.seed + 2)
    unet = train_unet(vae, text_encoder, tokenizer, scenes, args)
    pipe = StableDiffusionPipeline(
        vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=parts.make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.to(torch.float16).save_pretrained(args.output)
    shutil.copy(args.work_dir / "log.jsonl", args.output / "training_log.jsonl")


def load_tokenizer(scenes, folder):
    if not folder.exists():
        captions = [s.caption for f in FAMILIES for s in scenes[f]]
        captions += sorted(held_out_captions())
        return parts.make_tokenizer(captions, folder)
    return CLIPTokenizer.from_pretrained(folder)


if __name__ == "__main__":
    main()
