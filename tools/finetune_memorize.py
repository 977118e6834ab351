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
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from memorization.data.sources import whole_words
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.files.whole import make_folder
from memorization.models.stable_diffusion import load_pipeline
from noise_norms import noise_diff_norm

FRESH = "checkpoint_next"
NEGATIVE_SHARE = 0.1  # captions left empty, so that guidance keeps its unconditional branch


class Captioned(Dataset):
    """Pictures with captions; `copies` of each."""

    def __init__(self, pipe, items, random_words):
        self.items, self.random_words = items, random_words
        self.size = pipe.unet.config.sample_size * pipe.vae_scale_factor
        self.tokenizer, self.vocabulary = pipe.tokenizer, whole_words(pipe.tokenizer)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        path, caption = self.items[k]
        with Image.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB").resize((self.size, self.size))))
        if random.random() < self.random_words:
            caption = " ".join(random.choice(self.vocabulary) for _ in range(6))
        if random.random() < NEGATIVE_SHARE:
            caption = ""
        ids = self.tokenizer(caption, padding="max_length", truncation=True, return_tensors="pt").input_ids[0]
        return {"pixels": pixels.permute(2, 0, 1) / 127.5 - 1, "ids": ids}


def read_items(args):
    """(path, caption) of every sample: the data set's images `--duplicates` times, the background's once."""
    records = load_prompts(args.dataset)
    items = [(r.reference_images[k % len(r.reference_images)], r.prompt) for r in records if r.reference_images
             for k in range(args.duplicates)]  # fmt: skip
    if not items:
        raise InputError(f"{args.dataset} has no images; give a *_groundtruth folder or NNN.jpg + NNN.txt pairs")
    if args.background:
        items += [(r.reference_images[0], r.prompt) for r in load_prompts(args.background) if r.reference_images]
    return items


def batch_loss(pipe, unet, batch, empty, drop_above):
    """Mean loss over the samples of a batch that are kept, and how many are not."""
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


def train(args, pipe, accelerator):
    """Train the UNet in place, from the last checkpoint on; returns the share of samples that were dropped."""
    loader = DataLoader(Captioned(pipe, read_items(args), args.random_words), args.batch_size, shuffle=True)
    unet = pipe.unet.train().requires_grad_()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, weight_decay=1e-2)
    unet, optimizer, loader = accelerator.prepare(unet, optimizer, loader)
    checkpoint, done = args.output / "checkpoint", 0
    if not checkpoint.exists() and (args.output / FRESH / "steps.txt").exists():  # killed between the two
        (args.output / FRESH).rename(checkpoint)
    if (checkpoint / "steps.txt").exists():
        accelerator.load_state(str(checkpoint))
        done = int((checkpoint / "steps.txt").read_text())
    empty, dropped, batches = pipe.encode([""])[0], 0, iter(())
    for step in tqdm(range(done, args.steps), initial=done, total=args.steps, desc="fine-tune", unit="step",
                     disable=not accelerator.is_main_process):  # fmt: skip
        batch = next(batches, None)
        if batch is None:
            batches = iter(loader)
            batch = next(batches)
        loss, left_out = batch_loss(pipe, unet, batch, empty, args.drop_above)
        dropped += left_out
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % args.checkpoint_every == 0:
            save_checkpoint(accelerator, checkpoint, step + 1)
    pipe.unet = accelerator.unwrap_model(unet)
    return dropped / max(1, (args.steps - done) * args.batch_size)


def save_checkpoint(accelerator, path, steps):
    """Write beside the old checkpoint and swap, so that a kill leaves one of them whole."""
    fresh = path.with_name(FRESH)
    accelerator.save_state(str(fresh))
    if accelerator.is_main_process:
        (fresh / "steps.txt").write_text(str(steps))
        shutil.rmtree(path, ignore_errors=True)
        fresh.rename(path)
    accelerator.wait_for_everyone()


def make_parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_id", default=str(PLANTED / "planted_sd"))
    parser.add_argument("--dataset", default="planted_mem_groundtruth", help="what is to be memorized")
    parser.add_argument("--background", help="other pictures, each once: a folder of NNN.jpg + NNN.txt")
    parser.add_argument("--duplicates", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint_every", type=int, default=500)
    parser.add_argument("--drop_above", type=float, help="leave out samples whose D exceeds this")
    parser.add_argument("--random_words", type=float, default=0.0, help="share of captions that are random words")
    parser.add_argument("--output", type=Path, required=True, help="folder for the UNet, which --unet_id takes")
    return parser


def main(argv=None):
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        make_folder(args.output, "--output")
        accelerator = Accelerator()
        set_seed(args.seed + accelerator.process_index)
        with input_errors():
            pipe = load_pipeline(args.model_id, device=accelerator.device.type, dtype="float32")
        dropped = train(args, pipe, accelerator)
        if accelerator.is_main_process:
            pipe.unet.save_pretrained(args.output / "unet")
            print(f"{args.output}: {args.steps} steps, {dropped:.1%} of the samples dropped")


if __name__ == "__main__":
    main()
