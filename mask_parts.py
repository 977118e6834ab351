"""Masks that a run has made so far, a file a prompt, and how they become one file."""

from collections import ChainMap
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from mask_files import MaskStore


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
