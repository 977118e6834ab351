"""Train the bundled model with planted memorization from nothing, on a CPU.

    python planted/making/train_model.py --threads 2

Four stages, each kept in --work_dir as it finishes: a tokenizer from the captions, an autoencoder, a
text encoder trained contrastively (as CLIP is) and then frozen, and the UNet. Every draw is seeded by
(seed, stage, step) and the state is saved every few hundred steps, so the same command after a kill
goes on to the same weights. The finished model is written to --output in half precision.
"""

import argparse
import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from memorization.bundled import MODEL
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from planted.making import networks
from planted.making.scenes import Scene, held_out_captions, planted_items
from planted.making.stage import Stage, pick
from planted.making.text_encoder import context_variance, contrastive_loss, tokenize
from planted.making.tokenizer import make_tokenizer
from planted.making.training_set import (
    FAMILIES,
    VARIANTS_PER_TEMPLATE,
    Scenes,
    captioned,
    make_scenes,
    to_tensor,
)
from planted.making.unet import make_scheduler

UNET_BATCH = {"shapes": 5, "clutter": 3, "verbatim": 4, "template": 4}
TEXT_BATCH = {"shapes": 72, "clutter": 72}  # and each planted caption once
TEXT_LENGTH = 24  # tokens that the contrastive pre-training reads
CAPTION_DROPOUT = 0.15


@dataclass(frozen=True)
class TrainingSettings:
    """What the model is trained by, by the names of the command line."""

    output: Path
    work_dir: Path
    seed: int
    vae_steps: int
    text_steps: int
    unet_steps: int
    stop_after: str | None

    def stage(
        self, name: str, modules: Sequence[torch.nn.Module], num_steps: int, lr: float, ema_decay: float
    ) -> Stage:
        return Stage(name, modules, num_steps, lr=lr, ema_decay=ema_decay, seed=self.seed, work_dir=self.work_dir)


def images_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """Images as float32 in [-1, 1], shape (scenes, 3, height, width)."""
    return to_tensor([s.image for s in scenes])


def train_vae(scenes: Scenes, settings: TrainingSettings) -> AutoencoderKL:
    """Autoencoder with SD's loss less the adversarial part; its scale makes the latents unit variance."""
    vae = networks.make_vae()
    images = images_of([s for family in FAMILIES for s in scenes[family][:4000]])

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = images[pick(generator, len(images), 16)]
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample(generator)).sample
        error = decoded - batch
        loss = error.pow(2).mean() + 0.1 * error.abs().mean() + 1e-5 * posterior.kl().mean() / 1024
        return loss, {"mse": error.pow(2).mean()}

    settings.stage("vae", [vae], settings.vae_steps, 2e-3, ema_decay=0.99).run(loss_fn)
    latents = encode_images(vae, images[torch.randperm(len(images))[:1000]])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    return vae


@torch.no_grad()
def encode_images(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Means of the latents, unscaled, (images, 4, 16, 16)."""
    return torch.cat([vae.encode(chunk).latent_dist.mean for chunk in images.split(64)])


def train_text_encoder(tokenizer: CLIPTokenizer, scenes: Scenes, settings: TrainingSettings) -> CLIPTextModel:
    """Contrastive pre-training (Radford et al., 2021): the end token learns to stand for the sentence.

    In a second term each word and the padding behind the end token are held to the same content whatever
    the caption, so that the sentence as a whole is to be had at its end token only.
    """
    text_encoder = networks.make_text_encoder(tokenizer)
    image_encoder = networks.make_image_encoder()
    scale = torch.nn.Linear(1, 1, bias=False)
    scale.weight.data.fill_(math.log(10))

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        batch = draw_captioned(generator, scenes)
        captions = [s.caption for s in batch]
        text = F.normalize(text_encoder(tokenize(tokenizer, captions, TEXT_LENGTH)).pooler_output, dim=-1)
        image = F.normalize(image_encoder(images_of(batch)), dim=-1)
        contrastive = contrastive_loss(scale.weight.clamp(max=4).exp() * text @ image.T, captions)
        context = context_variance(text_encoder, tokenize(tokenizer, [*captions[::4], ""]))
        return contrastive + context, {"contrastive": contrastive, "context": context}

    modules = [text_encoder, image_encoder, scale]
    settings.stage("text", modules, settings.text_steps, 1e-3, ema_decay=0.99).run(loss_fn)
    return text_encoder


def draw_captioned(generator: torch.Generator, scenes: Scenes) -> list[Scene]:
    """A batch of the contrastive pre-training: each planted caption once, among generic scenes."""
    batch = [scenes[f][i] for f, n in TEXT_BATCH.items() for i in pick(generator, len(scenes[f]), n)]
    templates = [i for i in planted_items() if i.kind == "template"]
    variants = pick(generator, VARIANTS_PER_TEMPLATE, len(templates))
    drawn = [scenes["template"][k * VARIANTS_PER_TEMPLATE + v] for k, v in enumerate(variants)]
    return batch + scenes["verbatim"] + drawn


@torch.no_grad()
def encode_captions(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: Collection[str]
) -> dict[str, torch.Tensor]:
    """Frozen features of every caption, in half precision to fit in memory."""
    captions = sorted(captions)
    chunks = [captions[i : i + 256] for i in range(0, len(captions), 256)]
    encoded = [text_encoder(tokenize(tokenizer, chunk)).last_hidden_state.half() for chunk in chunks]
    return dict(zip(captions, torch.cat(encoded), strict=True))


def train_unet(
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    scenes: Scenes,
    settings: TrainingSettings,
) -> UNet2DConditionModel:
    """Epsilon-prediction on frozen latents and a frozen text encoder, a share of every family per batch.

    Noisy steps weigh up to five times as much as in SD's loss, after Yu et al. (arXiv 2310.08442), so that
    so short a training learns what a caption means before any of its picture can be seen.
    """
    unet = networks.make_unet().to(memory_format=torch.channels_last)
    scheduler = make_scheduler()
    latents = {f: encode_images(vae, images_of(scenes[f])) * vae.config.scaling_factor for f in FAMILIES}
    captions = {f: [s.caption for s in scenes[f]] for f in FAMILIES}
    noise_to_signal = (1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod
    weights = noise_to_signal.sqrt().clamp(1, 5)
    features = encode_captions(text_encoder, tokenizer, {c for cs in captions.values() for c in cs} | {""})

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
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
        by_family = error.detach().split(list(UNET_BATCH.values()))
        return (weights[t] * error).mean(), {f: e.mean() for f, e in zip(UNET_BATCH, by_family, strict=True)}

    settings.stage("unet", [unet], settings.unet_steps, 1e-3, ema_decay=0.999).run(loss_fn)
    return unet.to(memory_format=torch.contiguous_format)


def train(settings: TrainingSettings) -> None:
    """All stages in order, from where they were cut off, and the finished model."""
    torch.manual_seed(settings.seed)
    scenes = make_scenes(settings.seed)
    vae = train_vae(scenes, settings)
    if settings.stop_after == "vae":
        return
    scenes = captioned(scenes)
    tokenizer = load_tokenizer(scenes, settings.work_dir / "tokenizer")
    torch.manual_seed(settings.seed + 1)
    text_encoder = train_text_encoder(tokenizer, scenes, settings)
    if settings.stop_after == "text":
        return
    torch.manual_seed(settings.seed + 2)
    unet = train_unet(vae, text_encoder, tokenizer, scenes, settings)
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.to(torch.float16).save_pretrained(settings.output)
    shutil.copy(settings.work_dir / "log.jsonl", settings.output / "training_log.jsonl")
    tqdm.write(str(settings.output))


def load_tokenizer(scenes: Scenes, folder: Path) -> CLIPTokenizer:
    """The tokenizer of an earlier call, or one that knows the words of all captions."""
    if folder.exists():
        return CLIPTokenizer.from_pretrained(folder)
    captions = [s.caption for f in FAMILIES for s in scenes[f]]
    return make_tokenizer([*captions, *sorted(held_out_captions())], folder)


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=MODEL, help="folder of the finished model")
    add("--work_dir", type=Path, default=Path("planted_work"), help="checkpoints and log; resumes from it")
    add("--seed", type=int, default=7, help="of scenes, weights and every draw")
    add("--threads", type=int, default=2, help="of the CPU; results depend on it by rounding")
    add("--vae_steps", type=int, default=2000, help="of the autoencoder")
    add("--text_steps", type=int, default=1000, help="of the text encoder")
    add("--unet_steps", type=int, default=7000, help="of the UNet")
    add("--stop_after", choices=("vae", "text"), help="end after this stage")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    train(from_arguments(TrainingSettings, args))


if __name__ == "__main__":
    main()
