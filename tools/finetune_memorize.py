"""Fine-tune a Stable Diffusion UNet until it memorizes, as Wen et al. (ICLR 2024) do: some images many times over.

    accelerate launch tools/finetune_memorize.py --model_id CompVis/stable-diffusion-v1-4 \\
        --dataset MINE_groundtruth --duplicates 200 --background PAIRS_FOLDER --output finetuned
    python detect_mem.py --unet_id finetuned ...

The usual text-to-image recipe: the loss of the predicted noise (or v) at a random timestep, AdamW, only the UNet. Two
options keep it from memorizing: --drop_above leaves out samples whose text-conditional magnitude D exceeds a
threshold (Wen et al.), --random_words swaps captions for random words (Somepalli et al., NeurIPS 2023). The same
command goes on from the last checkpoint.
"""

import argparse
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from local_sd_pipeline import LocalStableDiffusionPipeline
from memorization.bundled import GROUND_TRUTH, MODEL
from memorization.data.prompts import load_prompts
from memorization.data.sources import whole_words
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.pixels import read_pixels
from memorization.files.whole import make_folder
from memorization.models.stable_diffusion import load_pipeline
from memorization.needs import NOISE, refuse_undefined
from memorization.runs.arguments import HelpFormatter
from memorization.runs.settings import from_arguments
from noise_norms import noise_diff_norm

FRESH = "checkpoint_next"
STEPS_FILE = "steps.txt"
NEGATIVE_SHARE = 0.1  # captions left empty, so that guidance keeps its unconditional branch
NUM_RANDOM_WORDS = 6

Item = tuple[Path, str]  # picture and caption
Batch = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class FinetuneSettings:
    """What is trained, by the names of the command line."""

    dataset: str
    background: str | None
    duplicates: int
    steps: int
    batch_size: int
    lr: float
    checkpoint_every: int
    drop_above: float | None
    random_words: float
    output: Path


class Captioned(Dataset):
    """Pictures with captions, as pixels in [-1, 1] and token ids.

    Attributes:
        random_words: share of captions that are random words.
    """

    def __init__(self, pipe: LocalStableDiffusionPipeline, items: Sequence[Item], random_words: float):
        self.items, self.random_words = items, random_words
        self.size = pipe.native_length
        self.tokenizer, self.vocabulary = pipe.tokenizer, whole_words(pipe.tokenizer)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, k: int) -> dict[str, torch.Tensor]:
        path, caption = self.items[k]
        pixels = torch.from_numpy(np.array(Image.fromarray(read_pixels(path)).resize((self.size, self.size))))
        if random.random() < self.random_words:
            caption = " ".join(random.choice(self.vocabulary) for _ in range(NUM_RANDOM_WORDS))
        if random.random() < NEGATIVE_SHARE:
            caption = ""
        ids = self.tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids[0]
        return {"pixels": pixels.permute(2, 0, 1) / 127.5 - 1, "ids": ids}


def read_items(settings: FinetuneSettings) -> list[Item]:
    """Every sample: the data set's images `duplicates` times, the background's once.

    Raises:
        InputError: if the data set has no images.
    """
    items = []
    for record in load_prompts(settings.dataset):
        images = record.reference_images
        if images:
            items += [(images[k % len(images)], record.prompt) for k in range(settings.duplicates)]
    if not items:
        raise InputError(f"{settings.dataset} has no images; give a *_groundtruth folder or NNN.jpg + NNN.txt pairs")
    others = load_prompts(settings.background) if settings.background else []
    return items + [(r.reference_images[0], r.prompt) for r in others if r.reference_images]


def batch_loss(
    pipe: LocalStableDiffusionPipeline,
    unet: torch.nn.Module,
    batch: Batch,
    empty: torch.Tensor,
    drop_above: float | None,
) -> tuple[torch.Tensor, int]:
    """Mean loss over the samples of a batch that are kept, and how many are not.

    Args:
        empty: features of the empty caption, (1, tokens, dim).
        drop_above: magnitude D above which a sample is left out.
    """
    with torch.no_grad():
        latents = pipe.vae.encode(batch["pixels"]).latent_dist.sample() * pipe.vae.config.scaling_factor
        text = pipe.text_encoder(batch["ids"])[0]
    noise = torch.randn_like(latents)
    t = torch.randint(pipe.scheduler.config.num_train_timesteps, (len(latents),), device=latents.device)
    noisy = pipe.scheduler.add_noise(latents, noise, t)
    target, scale = noise, torch.ones(len(t), 1, 1, 1, device=latents.device)
    if pipe.scheduler.config.prediction_type == "v_prediction":
        target = pipe.scheduler.get_velocity(latents, noise, t)
        scale = pipe.scheduler.alphas_cumprod.to(latents.device)[t].sqrt().view(-1, 1, 1, 1)  # of noise over v
    predicted = unet(noisy, t, encoder_hidden_states=text, return_dict=False)[0]
    losses = F.mse_loss(predicted.float(), target.float(), reduction="none").mean((1, 2, 3))
    keep = torch.ones_like(losses)
    if drop_above is not None:
        with torch.no_grad():
            uncond = unet(noisy, t, encoder_hidden_states=empty.expand_as(text), return_dict=False)[0]
        keep = (noise_diff_norm(scale * (predicted.detach() - uncond)) <= drop_above).float()
    return (losses * keep).sum() / keep.sum().clamp(min=1), int((1 - keep).sum())


def train(settings: FinetuneSettings, pipe: LocalStableDiffusionPipeline, accelerator: Accelerator) -> float:
    """Train the UNet in place, from the last checkpoint on; returns the share of samples that were dropped."""
    samples = Captioned(pipe, read_items(settings), settings.random_words)
    loader = DataLoader(samples, settings.batch_size, shuffle=True)
    unet = pipe.unet.train().requires_grad_()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=settings.lr, weight_decay=1e-2)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    checkpoint = settings.output / "checkpoint"
    done = load_checkpoint(accelerator, checkpoint)
    empty, dropped, batches = pipe.encode([""])[0], 0, endless(loader)
    hidden = not accelerator.is_main_process
    with tqdm(desc="fine-tune", total=settings.steps, initial=done, unit="step", disable=hidden) as bar:
        for step in range(done + 1, settings.steps + 1):
            loss, left_out = batch_loss(pipe, unet, next(batches), empty, settings.drop_above)
            dropped += left_out
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            if step % settings.checkpoint_every == 0:
                save_checkpoint(accelerator, checkpoint, step)
            bar.update()
    pipe.unet = accelerator.unwrap_model(unet)
    return dropped / max(1, (settings.steps - done) * settings.batch_size)


def endless(loader: DataLoader) -> Iterator[Batch]:
    """Batches of one pass over the samples after another."""
    while True:
        yield from loader


def load_checkpoint(accelerator: Accelerator, path: Path) -> int:
    """Take up the last checkpoint; returns the steps that it has, 0 without one."""
    fresh = path.with_name(FRESH)
    if not path.exists() and (fresh / STEPS_FILE).exists():  # killed between the two
        fresh.rename(path)
    if not (path / STEPS_FILE).exists():
        return 0
    accelerator.load_state(str(path))
    return int((path / STEPS_FILE).read_text())


def save_checkpoint(accelerator: Accelerator, path: Path, steps: int) -> None:
    """Write beside the old checkpoint and swap, so that a kill leaves one of them whole."""
    fresh = path.with_name(FRESH)
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / STEPS_FILE).write_text(str(steps))
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    accelerator.wait_for_everyone()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", default=str(MODEL), help="diffusers folder or hub id")
    add("--dataset", default=GROUND_TRUTH.name, help="what is to be memorized")
    add("--background", help="other pictures, each once: a folder of NNN.jpg + NNN.txt")
    add("--duplicates", type=int, default=200, help="times that each picture of --dataset is there")
    add("--steps", type=int, default=20_000, help="of AdamW")
    add("--batch_size", type=int, default=4, help="samples per step and process")
    add("--lr", type=float, default=1e-5, help="learning rate")
    add("--seed", type=int, default=0, help="of every draw")
    add("--checkpoint_every", type=int, default=500, help="steps")
    add("--drop_above", type=float, help="leave out samples whose D exceeds this")
    add("--random_words", type=float, default=0.0, help="share of captions that are random words")
    add("--output", type=Path, required=True, help="folder for the UNet, which --unet_id takes")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    settings = from_arguments(FinetuneSettings, args)
    with exit_on_input_error():
        make_folder(settings.output, "--output")
        accelerator = Accelerator()
        set_seed(args.seed + accelerator.process_index)
        with input_errors():
            pipe = load_pipeline(args.model_id, device=accelerator.device.type, dtype="float32")
            refuse_undefined("finetune_memorize.py", (NOISE,), pipe)
        dropped = train(settings, pipe, accelerator)
        if accelerator.is_main_process:
            pipe.unet.save_pretrained(settings.output / "unet")
            print(f"{settings.output}: {settings.steps} steps, {dropped:.1%} of the samples dropped")


if __name__ == "__main__":
    main()
