"""Files of bright-ending masks: read in the original's layout and ours, written in ours.

Ours holds one end-token map per image, keyed by prompt index and seed, with the prompts and settings
they belong to. The original's holds every token of every layer by position, (prompts, layers, images,
height * width, tokens), and is 150 times the size. Masks are read one at a time and written as they are
read, so that memory does not grow with the file. Nothing is ever unpickled.
"""

import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from memorization.files.npz import READ_ERRORS, Streamed, open_array, write_npz
from memorization.files.original_masks import NO_MASK, is_mask, is_original_layout

MASK_SETTINGS = ("model_id", "unet_id", "guidance_scale", "num_inference_steps", "image_length", "layers", "seed_mode")


ARRAYS = ("index", "seed", "evals", "prompt", "attention_scores")


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


class MaskParts:
    """A folder with one file of our layout a prompt: what a run has made so far, safe from a kill."""

    def __init__(self, folder, settings):
        self.folder, self.settings = Path(folder), settings

    def path(self, index, seeds):
        return self.folder / f"{index}_{seeds[0]}_{len(seeds)}.npz"

    def add(self, index, prompt, seeds, masks, evals):
        """Write the masks of one prompt, a tensor (images, 1, height, width), and what each cost."""
        part = MaskStore(self.settings)
        part.add(index, prompt, seeds, masks, evals)
        part.save(self.path(index, seeds))

    def merged(self, paths, store=None):
        """A `MaskStore` of the parts at `paths`, read one after another, and of `store`."""
        prompts, evals, places = {}, {}, {}
        for path in paths:
            part = MaskStore.read(path)
            prompts |= part.prompts
            evals |= part.evals
            places |= dict.fromkeys(part.masks, path)
        if store is None:
            return MaskStore(self.settings, prompts, PlacedMasks(places), evals)
        everything = ChainMap(PlacedMasks(places), store.masks)
        return MaskStore(self.settings, store.prompts | prompts, everything, store.evals | evals)


class PlacedMasks(Mapping):
    """Masks by (prompt index, seed), each read from the file that has it; the last file stays open."""

    def __init__(self, places):
        self.places, self.read = places, lru_cache(1)(MaskStore.read)

    def __getitem__(self, key):
        return self.read(self.places[key]).masks[key]

    def __iter__(self):
        return iter(self.places)

    def __len__(self):
        return len(self.places)
