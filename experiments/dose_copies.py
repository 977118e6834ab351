"""Which images are copies of what their prompt planted, by pixels or by a copy descriptor at the field's cut."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from memorization.data.prompts import PromptRecord
from memorization.evaluation.copied_regions import find_regions, own_similarity
from memorization.finished_runs import Run
from memorization.similarity.descriptions import describe, describe_training
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.pixels import COPY_SIMILARITY, similarity_to_references
from planted.making.model_measures import COPY_RMSE

PIXELS = f"RMSE below {COPY_RMSE}"

# Whether each image of a row is a copy of the fixed region of its training picture, bool (images,)
Ruler = Callable[[Run, Mapping[str, Any], PromptRecord], np.ndarray]


def repeats_region(images: np.ndarray, record: PromptRecord) -> np.ndarray:
    """Whether images, uint8 (images, height, width, 3), repeat the fixed region of the training picture, by pixels."""
    return np.array(similarity_to_references(images, record)) > 1 - COPY_RMSE


def by_pixels(run: Run, row: Mapping[str, Any], record: PromptRecord) -> np.ndarray:
    """The ruler of worlds whose descriptors are made here: the root mean squared error of the region."""
    return repeats_region(run.images(row), record)


class ByDescriptor:
    """A copy descriptor above the field's cut; of a template the region alone is shown to it, of both pictures."""

    def __init__(self, descriptor: CopyDescriptor, records: Mapping[int, PromptRecord]):
        """
        Args:
            records: with training pictures, by prompt index; described once, however many runs are judged.
        """
        self.descriptor = descriptor
        self.regions = {index: r for r in find_regions(records, descriptor) for index in r.training}
        self.whole = describe_training({i: r for i, r in records.items() if i not in self.regions}, descriptor)

    def __call__(self, run: Run, row: Mapping[str, Any], record: PromptRecord) -> np.ndarray:
        region = self.regions.get(row["index"])
        if region is not None:
            return own_similarity(run, row, region, self.descriptor) > COPY_SIMILARITY
        seen = describe(self.descriptor, list(run.images(row)))
        return self.whole.compare(seen, row["index"]).own > COPY_SIMILARITY
