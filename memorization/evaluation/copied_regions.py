"""Templates by the copied region alone: how near a generation's region is to its training picture's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import PromptRecord
from memorization.errors import input_errors
from memorization.finished_runs import Run
from memorization.similarity.descriptions import Described, describe
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.regions import masked_region


@dataclass(frozen=True)
class Region:
    """A region that is copied under one prompt or several.

    Attributes:
        mask: bool (height, width).
        training: descriptors of the training pictures' regions by prompt index, unit vectors (pictures, dim) each.
    """

    mask: np.ndarray
    training: dict[int, np.ndarray]


def region_similarity(
    own: Sequence[Described],
    controls: Sequence[Described],
    records: Mapping[int, PromptRecord],
    descriptor: CopyDescriptor,
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of copied regions, of images whose ground truth has a mask of part of the picture.

    Each control is seen through every mask, which takes a call of the descriptor each: of a control prompt the first
    image counts.

    Args:
        records: with training pictures, by prompt index.

    Returns:
        Of own images to their own training pictures, and of controls to the nearest of all regions, (images,) each;
        NaN where there is none.

    Raises:
        InputError: if a mask has no pixel at a picture's size.
    """
    with input_errors():
        regions = find_regions(records, descriptor)
        by_index = {index: region for region in regions for index in region.training}
        ours = [own_similarity(part.run, part.row, by_index.get(part.row["index"]), descriptor) for part in own]
        theirs, seen = [], set()
        for part in tqdm(controls if regions else (), desc="regions of controls", unit="prompt"):
            theirs.append(np.full(len(part.row["seeds"]), np.nan))
            if part.row["prompt"] not in seen:
                seen.add(part.row["prompt"])
                theirs[-1][0] = nearest_region(part.run.image(part.row, 0), regions, descriptor)
    count = sum(len(part.row["seeds"]) for part in controls)
    return np.concatenate(ours), np.concatenate(theirs) if theirs else np.full(count, np.nan)


def find_regions(records: Mapping[int, PromptRecord], descriptor: CopyDescriptor) -> list[Region]:
    """Regions of prompts whose mask is not the whole picture; prompts of one mask share a region."""
    found: dict[tuple, Region] = {}
    for index, record in records.items():
        mask = np.ones((1, 1), bool) if record.mask_path is None else read_mask(record.mask_path)
        if not mask.all():
            region = found.setdefault((mask.shape, mask.tobytes()), Region(mask, {}))
            pictures = [masked_region(read_image(path), mask) for path in record.reference_images]
            region.training[index] = describe(descriptor, pictures)
    return list(found.values())


def own_similarity(run: Run, row: Mapping[str, Any], region: Region | None, descriptor: CopyDescriptor) -> np.ndarray:
    """Cosines of a prompt's images to its training pictures by the region, (images,)."""
    if region is None:
        return np.full(len(row["seeds"]), np.nan)
    seen = describe(descriptor, [masked_region(image, region.mask) for image in run.images(row)])
    return (seen @ region.training[row["index"]].T).max(1)


def nearest_region(image: np.ndarray, regions: Sequence[Region], descriptor: CopyDescriptor) -> float:
    """Cosine of an image, seen through every mask, to the nearest training picture seen through the same."""
    seen = describe(descriptor, [masked_region(image, region.mask) for region in regions])
    return max(float((t @ line).max()) for line, r in zip(seen, regions, strict=True) for t in r.training.values())
