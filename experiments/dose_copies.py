"""Which images are copies of what their prompt planted, by pixels or by a copy descriptor at the field's cut."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import PromptRecord
from memorization.finished_runs import Run
from memorization.similarity.descriptions import describe
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.pixels import COPY_SIMILARITY, similarity_to_references
from memorization.similarity.regions import masked_region
from planted.making.model_measures import COPY_RMSE

PIXELS = f"RMSE below {COPY_RMSE}"

# Whether each image of a row is a copy of the fixed region of its training picture, bool (images,)
Ruler = Callable[[Run, Mapping[str, Any], PromptRecord], np.ndarray]


def by_pixels(run: Run, row: Mapping[str, Any], record: PromptRecord) -> np.ndarray:
    """The ruler of worlds whose descriptors are made here: the root mean squared error of the region."""
    return np.array(similarity_to_references(run.images(row), record)) > 1 - COPY_RMSE


class ByDescriptor:
    """A copy descriptor above the field's cut; of a template the region alone is shown to it, of both pictures."""

    def __init__(self, descriptor: CopyDescriptor, records: Mapping[int, PromptRecord]):
        """
        Args:
            records: with training pictures, by prompt index; described once, however many runs are judged.
        """
        self.descriptor = descriptor
        self.masks = {index: part_of_picture(record) for index, record in records.items()}
        bar = tqdm(records.items(), desc="training pictures", unit="prompt")
        self.training = {i: self.describe(i, [read_image(path) for path in r.reference_images]) for i, r in bar}

    def describe(self, index: int, pictures: list[np.ndarray]) -> np.ndarray:
        mask = self.masks[index]
        return describe(self.descriptor, pictures if mask is None else [masked_region(p, mask) for p in pictures])

    def __call__(self, run: Run, row: Mapping[str, Any], record: PromptRecord) -> np.ndarray:
        seen = self.describe(row["index"], list(run.images(row)))
        return (seen @ self.training[row["index"]].T).max(1) > COPY_SIMILARITY


def part_of_picture(record: PromptRecord) -> np.ndarray | None:
    """The mask of what is planted, bool (height, width); None where it is the whole picture."""
    mask = None if record.mask_path is None else read_mask(record.mask_path)
    return None if mask is None or mask.all() else mask
