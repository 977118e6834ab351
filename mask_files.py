"""Files of bright-ending masks: read in the original's layout and ours, written in ours.

Ours holds one end-token map per image, keyed by prompt index and seed, with the prompts and settings
they belong to. The original's holds every token of every layer by position, (prompts, layers, images,
height * width, tokens), and is 150 times the size. Masks are read one at a time and written as they are
read, so that memory does not grow with the file. Nothing is ever unpickled.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap

from npz_files import READ_ERRORS, Streamed, array_shape, open_array, slabs, write_npz

MASK_SETTINGS = ("model_id", "unet_id", "guidance_scale", "num_inference_steps", "image_length", "layers", "seed_mode")
ARRAYS = ("index", "seed", "evals", "prompt", "attention_scores")
NO_MASK = "is zero all over, or holds negative or infinite values"


def is_mask(scores):
    return bool(np.isfinite(scores).all() and (scores >= 0).all() and scores.any())


class StoredMasks(Mapping):
    """Masks of a file by (prompt index, seed), read when asked for: float16 arrays (height, width)."""

    def __init__(self, keys, scores):
        self.positions, self.scores = {key: k for k, key in enumerate(keys)}, scores

    def __getitem__(self, key):
        return np.asarray(self.scores[self.positions[key]])

    def __iter__(self):
        return iter(self.positions)

    def __len__(self):
        return len(self.positions)


@dataclass
class MaskStore:
    """Bright-ending masks keyed by (prompt index, seed), with the settings that made them.

    Attributes:
        settings: the `MASK_SETTINGS` of the generation; masks of others are refused.
        prompts: prompt index to prompt.
        masks: (prompt index, seed) to float16 array (height, width), any mapping.
        evals: prompt index to the UNet evaluations that an image's mask cost when it was made.
    """

    settings: dict
    prompts: dict = field(default_factory=dict)
    masks: Mapping = field(default_factory=dict)
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
        """Write all masks in the order of their keys, one at a time, through a temporary file.

        Raises:
            ValueError: if they differ in size.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        keys = sorted(self.masks)
        prompts = (self.prompts[index] for index, _ in keys)
        width = max(map(len, self.prompts.values()))
        arrays = {
            "attention_scores": Streamed((len(keys), *self.masks[keys[0]].shape), np.float16, self.in_order(keys)),
            "index": np.array([index for index, _ in keys]),
            "seed": np.array([seed for _, seed in keys]),
            "prompt": Streamed((len(keys),), f"<U{max(width, 1)}", (np.array([p], f"<U{width or 1}") for p in prompts)),
            "evals": np.array([self.evals[index] for index, _ in keys], float),
            "settings": np.array(json.dumps(self.settings, sort_keys=True)),
        }
        write_npz(path, arrays)

    def in_order(self, keys):
        shape = self.masks[keys[0]].shape
        for key in keys:
            mask = self.masks[key]
            if mask.shape != shape:
                raise ValueError(f"masks differ in size: that of prompt {key[0]} is {mask.shape}, others are {shape}")
            yield mask

    @classmethod
    def load(cls, path, settings, records, remedy):
        """Read masks for `records` and refuse those that belong to something else.

        Args:
            path: npz file in our layout.
            settings: this run's `MASK_SETTINGS`.
            records: prompts whose masks are wanted, with `index` and `prompt`.
            remedy: what to do about a refusal, the end of the message.

        Raises:
            ValueError: one line, if the file's settings or the prompt at an index differ, or a mask is none.
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
        wanted = {record.index for record in records}
        for index, seed in store.masks:
            if index in wanted and not is_mask(store.masks[index, seed]):
                raise ValueError(f"the mask of prompt {index} in {path} {NO_MASK}; {remedy}")
        return store

    @classmethod
    def read(cls, path):
        """Read a file in our layout, whatever its settings; masks stay in the file until asked for.

        Raises:
            ValueError: one line, if it is no such file.
        """
        if is_original_layout(path):
            raise ValueError(f"mask file {path} is in the original's layout, which says no prompts and seeds")
        try:
            store = cls(dict(json.loads(str(open_array(path, "settings")))))
            index, seed, evals, prompts, scores = (open_array(path, name) for name in ARRAYS)
            check_arrays(index, seed, evals, prompts, scores)
            keys = list(zip(index.tolist(), seed.tolist(), strict=True))
            for k, (i, _) in enumerate(keys):
                if i not in store.prompts:
                    store.prompts[i], store.evals[i] = str(prompts[k]), float(evals[k])
            store.masks = StoredMasks(keys, scores)
        except READ_ERRORS as error:
            raise ValueError(f"mask file {path} is damaged: {error}") from error
        return store


def check_arrays(index, seed, evals, prompts, scores):
    """Raise ValueError where a file's arrays do not have one entry a mask each, or are of other types."""
    arrays = {"i": (index, seed), "f": (evals, scores), "U": (prompts,)}
    right = all(a.dtype.kind == kind for kind, some in arrays.items() for a in some)
    one_each = all(a.shape == (len(scores),) for a in (index, seed, evals, prompts))
    if not (right and scores.ndim == 3 and one_each and all(scores.shape[1:]) and np.isfinite(evals).all()):
        raise ValueError("its arrays do not fit together")


def save_whole_tokens(path, parts):
    """Write a file in the original's layout out of one .npy a prompt, (layers, images, positions, tokens)."""
    first = read_part(parts[0])
    pieces = (read_part(part, first) for part in parts)
    write_npz(path, {"attention_scores": Streamed((len(parts), *first.shape), first.dtype, pieces)})


def read_part(path, like=None):
    """One prompt's attention to every token; ValueError where it is missing, damaged, or unlike another prompt's."""
    try:
        array = open_memmap(path, mode="r")
        if like is not None and (array.shape, array.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{array.dtype} of shape {array.shape}, others {like.dtype} of {like.shape}")
    except READ_ERRORS as error:
        raise ValueError(f"no attention in {path} although its row is finished: {error}; use --overwrite") from error
    return array


def is_original_layout(path):
    """Whether the file is in the original's layout, which says neither prompts nor seeds.

    Raises:
        ValueError: one line, if it is missing, damaged, or has no attention scores.
    """
    if not Path(path).is_file():
        raise ValueError(f"mask file {path} does not exist")
    try:
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
    except READ_ERRORS as error:
        raise ValueError(f"mask file {path} is not a readable npz file: {error}") from error
    if "attention_scores.npy" not in names:
        raise ValueError(f"mask file {path} has no array attention_scores")
    return "settings.npy" not in names


def load_original_layout(path, end_tokens, num_images, position=0):
    """End-token masks out of a whole-token file of the original, read prompt by prompt.

    Args:
        path: npz whose attention_scores are (prompts, layers, images, height * width, tokens).
        end_tokens: end-token index of every wanted prompt, in the file's order.
        num_images: images per prompt of this run.
        position: place in the file of the first wanted prompt.

    Returns:
        float32 tensor (prompts, images, 1, height, width).

    Raises:
        ValueError: one line, if the file is damaged or its shape is not that of these prompts and images.
    """
    try:
        shape = array_shape(path, "attention_scores")
        side = check_original_shape(path, shape, end_tokens, num_images, position)
        wanted = islice(slabs(path, "attention_scores"), position, position + len(end_tokens))
        masks = [end_token_maps(slab, t) for slab, t in zip(wanted, end_tokens, strict=True)]
    except READ_ERRORS as error:
        told = str(error) if str(path) in str(error) else f"mask file {path} is damaged: {error}"
        raise ValueError(told) from error
    return torch.from_numpy(np.stack(masks)).unflatten(-1, (side, side)).unsqueeze(2)


def end_token_maps(slab, token):
    """The end token's attention out of one prompt's (layers, images, positions, tokens): (images, positions)."""
    if slab.dtype.kind != "f":
        raise ValueError(f"attention_scores are {slab.dtype}, not floating-point numbers")
    maps = slab[..., token].astype(np.float32).mean(0)
    if not all(map(is_mask, maps)):
        raise ValueError(f"a mask {NO_MASK}")
    return maps


def check_original_shape(path, shape, end_tokens, num_images, position):
    """Side of the maps, when the shape is that of these prompts and images."""
    if len(shape) != 5:
        raise ValueError(
            f"attention_scores in {path} has shape {shape}; expected (prompts, layers, images, positions, tokens)"
        )
    wanted = position + len(end_tokens)
    if shape[0] < wanted or not shape[1] or shape[2] != num_images or shape[4] <= max(end_tokens):
        raise ValueError(
            f"attention_scores in {path} has shape {shape}: this run needs at least {wanted} prompts, "
            f"exactly {num_images} images each and more than {max(end_tokens)} tokens"
        )
    side = round(shape[3] ** 0.5)
    if side**2 != shape[3] or not side:
        raise ValueError(f"attention_scores in {path} has {shape[3]} positions, which is not a square")
    return side
