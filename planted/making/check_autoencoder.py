"""Measure how well an autoencoder keeps planted pictures, by a copy descriptor and pixel by pixel.

    python planted/making/check_autoencoder.py --model_id planted/planted_sd --sscd immaculate

No copy is better than its reconstruction, so this bounds what the descriptor can see of what a model memorizes. The
autoencoder was not trained on these pictures.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from tqdm import tqdm

from memorization.errors import exit_on_input_error, input_errors
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure, interval_text, mean_interval
from memorization.files.whole import write_text
from memorization.runs.arguments import HelpFormatter
from memorization.similarity.descriptors import CopyDescriptor
from memorization.tables import format_table, plain
from planted.making.autoencoder import to_tensor
from planted.making.choice import choose_world

BATCH_SIZE = 8

Descriptor = Callable[[Sequence[np.ndarray]], torch.Tensor]


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray) -> np.ndarray:
    """Pictures through encoder and decoder, uint8 (pictures, height, width, 3)."""
    decoded = []
    for start in tqdm(range(0, len(images), BATCH_SIZE), desc="reconstruct"):
        latents = vae.encode(to_tensor(images[start : start + BATCH_SIZE])).latent_dist.mean
        decoded.append((vae.decode(latents).sample + 1) * 127.5)
    return torch.cat(decoded).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def compare(descriptor: Descriptor, images: np.ndarray, copies: np.ndarray) -> dict[str, Measure | float]:
    """What a descriptor and pixels say of copies, `copies[k]` being one of `images[k]`."""
    originals, found = descriptor(list(images)), descriptor(list(copies))
    cosine = (found @ originals.T).numpy()
    others = (originals @ originals.T).fill_diagonal_(-1).numpy().max(1)
    places = np.arange(len(images))
    errors = np.sqrt(((images.astype(float) - copies) ** 2).mean((1, 2, 3))) / 255
    return {
        "root mean squared error in [0, 1]": mean_interval(errors, places),
        "similarity to the original": mean_interval(cosine.diagonal(), places),
        "the original is the nearest": share_measure(cosine.argmax(1) == places, places),
        "different originals to their nearest, mean": mean_interval(others, places),
        "the same, 99th percentile": float(np.quantile(others, 0.99)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--model_id", type=Path, required=True, help="folder of a model, or of its parts")
    add("--sscd", required=True, help="copy descriptor, as in eval_mem.py")
    add("--pictures", type=Path, help="folder of captioned pictures; without it the drawn world")
    add("--seed", type=int, default=7, help="that of the training")
    add("--output", type=Path, help="JSON file for the numbers")
    args = parser.parse_args(argv)
    with exit_on_input_error():
        items = choose_world(args.pictures, args.seed).items()
        images = np.stack([item.images[0] for item in items if item.kind == "verbatim"])
        copies = reconstruct(AutoencoderKL.from_pretrained(args.model_id, subfolder="vae"), images)
        with input_errors():
            descriptor = CopyDescriptor(args.sscd)
        rows = compare(descriptor, images, copies)
        if args.output is not None:
            found = {"pictures": len(images), "descriptor": descriptor.description, "measured": rows}
            write_text(args.output, json.dumps(plain(found), indent=1) + "\n")
    cells = [[name, value if isinstance(value, float) else interval_text(value)] for name, value in rows.items()]
    print(format_table([f"{len(images)} verbatim pictures", "value"], cells))


if __name__ == "__main__":
    main()
