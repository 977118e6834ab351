"""Files of bright-ending masks: read in the original's layout and ours, written in ours.

Ours holds one end-token map per image, keyed by prompt index and seed, with the prompts and settings
they belong to. The original's holds every token of every layer by position, (prompts, layers, images,
height * width, tokens), and is 150 times the size. Nothing is ever unpickled.
"""

import json
import os
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

MASK_SETTINGS = ("model_id", "unet_id", "guidance_scale", "num_inference_steps", "image_length", "layers", "seed_mode")


@dataclass
class MaskStore:
    """Bright-ending masks keyed by (prompt index, seed), with the settings that made them.

    Attributes:
        settings: the `MASK_SETTINGS` of the generation; masks of others are refused.
        prompts: prompt index to prompt.
        masks: (prompt index, seed) to float16 array (height, width).
        evals: prompt index to the UNet evaluations that an image's mask cost when it was made.
    """

    settings: dict
    prompts: dict = field(default_factory=dict)
    masks: dict = field(default_factory=dict)
    evals: dict = field(default_factory=dict)

    def add(self, index, prompt, seeds, masks, evals):
        """Keep the masks of one prompt, a tensor (images, 1, height, width), and what each cost."""
        self.prompts[index], self.evals[index] = prompt, evals
        for seed, mask in zip(seeds, masks[:, 0].cpu().numpy().astype(np.float16), strict=True):
            self.masks[index, seed] = mask

    def has(self, index, seeds):
        return all((index, seed) in self.masks for seed in seeds)

    def get(self, index, seeds):
        """Masks of one prompt's images, float32 (images, 1, height, width)."""
        return torch.from_numpy(np.stack([self.masks[index, s] for s in seeds])).float().unsqueeze(1)

    def save(self, path):
        """Write all masks, through a temporary file so that a kill leaves the old one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        keys = sorted(self.masks)
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.savez_compressed(
                file,
                attention_scores=np.stack([self.masks[k] for k in keys]),
                index=np.array([k[0] for k in keys]),
                seed=np.array([k[1] for k in keys]),
                prompt=np.array([self.prompts[k[0]] for k in keys]),
                evals=np.array([self.evals[k[0]] for k in keys], float),
                settings=np.array(json.dumps(self.settings, sort_keys=True)),
            )
        os.replace(temporary, path)

    @classmethod
    def load(cls, path, settings, records, remedy):
        """Read masks for `records` and refuse those that belong to something else.

        Args:
            path: npz file in our layout.
            settings: this run's `MASK_SETTINGS`.
            records: prompts whose masks are wanted, with `index` and `prompt`.
            remedy: what to do about a refusal, the end of the message.

        Raises:
            ValueError: one line, if the file's settings or the prompt at an index differ.
        """
        store = cls.read(path)
        for name in MASK_SETTINGS:
            if store.settings.get(name) != settings[name]:
                raise ValueError(
                    f"masks in {path} are of {name} {store.settings.get(name)!r}, this run's is {settings[name]!r}; "
                    + remedy
                )
        store.settings = settings
        for record in records:
            stored_prompt = store.prompts.get(record.index, record.prompt)
            if stored_prompt != record.prompt:
                raise ValueError(
                    f"masks in {path} at index {record.index} are of the prompt {stored_prompt!r}, "
                    f"this run's is {record.prompt!r}; {remedy}"
                )
        return store

    @classmethod
    def read(cls, path):
        """Read a file in our layout, whatever its settings.

        Raises:
            ValueError: one line, if it is no such file.
        """
        with open_npz(path) as file:
            if "settings" not in file:
                raise ValueError(f"mask file {path} is in the original's layout, which says no prompts and seeds")
            store = cls(json.loads(str(file["settings"])))
            keys = [file[name].tolist() for name in ("index", "seed", "prompt", "evals")]
            for index, seed, prompt, evals, mask in zip(*keys, file["attention_scores"], strict=True):
                store.prompts[index], store.evals[index] = prompt, evals
                store.masks[index, seed] = mask
        return store


def save_whole_tokens(path, parts):
    """Write a file in the original's layout out of one .npy a prompt, (layers, images, positions, tokens)."""
    temporary = Path(f"{path}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, attention_scores=np.stack([np.load(part) for part in parts]))
    os.replace(temporary, path)


def open_npz(path):
    """Open an npz file that has attention scores.

    Raises:
        ValueError: one line, if it is missing, damaged, or not such a file.
    """
    if not Path(path).is_file():
        raise ValueError(f"mask file {path} does not exist")
    try:
        file = np.load(path, allow_pickle=False)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"mask file {path} is not a readable npz file: {error}") from error
    if not isinstance(file, np.lib.npyio.NpzFile) or "attention_scores" not in file:
        raise ValueError(f"mask file {path} has no array attention_scores")
    return file


def is_original_layout(path):
    """Whether the file is in the original's layout, which says neither prompts nor seeds."""
    with open_npz(path) as file:
        return "settings" not in file


def load_original_layout(path, end_tokens, num_images, position=0):
    """End-token masks out of a whole-token file of the original.

    Args:
        path: npz whose attention_scores are (prompts, layers, images, height * width, tokens).
        end_tokens: end-token index of every wanted prompt, in the file's order.
        num_images: images per prompt of this run.
        position: place in the file of the first wanted prompt.

    Returns:
        float32 tensor (prompts, images, 1, height, width).

    Raises:
        ValueError: one line, if the shape is not that of these prompts and images.
    """
    with open_npz(path) as file:
        scores = file["attention_scores"]
    wanted = position + len(end_tokens)
    if scores.ndim != 5:
        raise ValueError(
            f"attention_scores in {path} has shape {scores.shape}; "
            "expected (prompts, layers, images, positions, tokens)"
        )
    if scores.shape[0] < wanted or scores.shape[2] != num_images or scores.shape[4] <= max(end_tokens):
        raise ValueError(
            f"attention_scores in {path} has shape {scores.shape}: this run needs at least {wanted} prompts, "
            f"exactly {num_images} images each and more than {max(end_tokens)} tokens"
        )
    side = round(scores.shape[3] ** 0.5)
    if side**2 != scores.shape[3]:
        raise ValueError(f"attention_scores in {path} has {scores.shape[3]} positions, which is not a square")
    masks = [scores[position + k, ..., t].astype(np.float32).mean(0) for k, t in enumerate(end_tokens)]
    return torch.from_numpy(np.stack(masks)).unflatten(-1, (side, side)).unsqueeze(2)
