"""What a model makes of some prompts while it is trained: a grid of pictures, the same noise each time."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from memorization.files.whole import save_png
from memorization.finetuning.examples import Example
from memorization.finetuning.settings import FinetuneSettings
from memorization.seeds import image_seeds

if TYPE_CHECKING:
    from local_sd_pipeline import LocalStableDiffusionPipeline

NUM_PROMPTS = NUM_IMAGES = 4  # by default, of captions that are trained on; pictures of each
NUM_STEPS = 50  # of DDIM


def validation_prompts(settings: FinetuneSettings, examples: Sequence[Example]) -> list[str]:
    """The prompts of the grid: those that are given, or the captions of the first pictures."""
    first = dict.fromkeys(example.captions[0] for example in examples)
    return list(settings.validation_prompts) or list(first)[:NUM_PROMPTS]


def validate(
    pipe: "LocalStableDiffusionPipeline", settings: FinetuneSettings, prompts: Sequence[str], step: int
) -> None:
    """Write the grid of a step, a row for each prompt."""
    folder = settings.output / "validation"
    folder.mkdir(exist_ok=True)
    pipe.empty_embeds = None  # the text encoder may have changed since it was kept
    pipe.unet.eval()
    rows = [
        row_of(pipe, prompt, image_seeds(settings.seed, k, NUM_IMAGES))
        for k, prompt in enumerate(tqdm(prompts, desc=f"validation at step {step}", unit="prompt", leave=False))
    ]
    pipe.unet.train()
    save_png(folder / f"{step:06}.png", np.concatenate(rows))


def row_of(pipe: "LocalStableDiffusionPipeline", prompt: str, seeds: Sequence[int]) -> np.ndarray:
    """Pictures of a prompt side by side, uint8 (height, images * width, 3)."""
    text, uncond = pipe.encode([prompt] * len(seeds))
    latents = pipe.generate(pipe.initial_latents(seeds), (uncond, text), num_inference_steps=NUM_STEPS)
    return np.concatenate(list(pipe.decode(latents)), axis=1)
