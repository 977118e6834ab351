"""Similarity of images by descriptors and pixel by pixel: to the nearest training image, and of one another."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import PromptRecord

COPY_SIMILARITY = 0.5  # SSCD above which an image counts as a copy, the field's usual cut
LOCAL_COPY = -50  # LS and S above which it does (Chen et al., ICLR 2025)
NOMINAL_SIDE = 512  # pixels; LS and S are scaled to it


def copy_similarity(descriptors: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """Cosine to the nearest training image, (images,): the maximum over references; higher = copy.

    Args:
        descriptors, references: unit descriptors, (images, dim) and (references, dim).
    """
    return (descriptors @ references.T).amax(1)


def seed_diversity(descriptors: torch.Tensor) -> float:
    """1 - mean cosine between a prompt's images, NaN for a single one; higher = more diverse."""
    pairs = list(combinations(range(len(descriptors)), 2))
    if not pairs:
        return float("nan")
    a, b = zip(*pairs, strict=True)
    return float(1 - (descriptors[list(a)] * descriptors[list(b)]).sum(1).mean())


def local_similarity(
    images: np.ndarray, references: Sequence[np.ndarray], sscd: npt.ArrayLike, mask: npt.ArrayLike | None = None
) -> list[float]:
    """S, or with a mask LS, of Chen et al. (ICLR 2025), equations 9 and 10, per image; nearer to 0 = copy.

    -1[SSCD < 0.5] ||(image - reference) o mask||_2, the nearest reference counting: 0 where SSCD finds a copy
    already, and a second look at the pixels where it does not. The paper leaves the scales open; here pixels
    are in [0, 1], the mask is divided by its maximum, and the norm is scaled to an image of 512 x 512, so that
    the threshold of -50 does not depend on the image's size.

    Args:
        images: uint8 (images, height, width, 3).
        references: uint8 arrays (height, width, 3), of any size.
        sscd: copy similarity of the images, (images,).
        mask: optional non-negative (images, h, w), repeated to the images' size.

    Returns:
        List of floats, at most 0.
    """
    height, width = images.shape[1:3]
    weight = np.float32(1) if mask is None else mask_weights(mask, (height, width))[..., None]
    nearest = np.full(len(images), np.inf)
    for reference in references:
        difference = images.astype(np.float32) - resized(reference, (width, height)).astype(np.float32)
        norms = np.sqrt(((difference / 255 * weight) ** 2).sum((1, 2, 3)))
        nearest = np.minimum(nearest, norms * NOMINAL_SIDE / (height * width) ** 0.5)
    return np.where(np.asarray(sscd) < COPY_SIMILARITY, -nearest, 0.0).tolist()


def mask_weights(mask: npt.ArrayLike, size: tuple[int, int]) -> np.ndarray:
    """A mask (images, h, w) over its maximum, at the images' size (height, width)."""
    weights = torch.from_numpy(np.asarray(mask, np.float32))[:, None]
    weights = weights / weights.amax((1, 2, 3), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return torch.nn.functional.interpolate(weights, size=size, mode="nearest")[:, 0].numpy()


def resized(
    image: np.ndarray, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BICUBIC
) -> np.ndarray:
    """An array (height, width, ...) resized to (width, height)."""
    return np.asarray(Image.fromarray(image).resize(size, resample))


def similarity_to_references(images: np.ndarray, record: PromptRecord) -> list[float]:
    """1 - root mean squared pixel difference to the nearest training image, per image; 1 is a copy.

    A quick look without a copy descriptor: over the true mask where the data set has one, else over the
    whole image, which is resized to the generated one's size.

    Args:
        images: uint8 array (images, height, width, 3).
        record: with training images.

    Returns:
        List of floats in [0, 1].
    """
    size = images.shape[2], images.shape[1]
    mask = np.ones(images.shape[1:3], bool)
    if record.mask_path is not None:
        mask = resized(read_mask(record.mask_path), size, Image.Resampling.NEAREST)
    best = np.zeros(len(images))
    for path in record.reference_images:
        error = (images.astype(np.float32) - resized(read_image(path), size).astype(np.float32))[:, mask] / 255
        best = np.maximum(best, 1 - np.sqrt((error**2).mean((1, 2))))
    return best.tolist()
