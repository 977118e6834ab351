"""Nearest training pictures by their descriptors: whose they are, how near different ones lie, scores normalised.

Cosines to the nearest of N pictures grow with N and with how alike pictures of a kind are, so that a fixed cut means
something else in every domain. What is the nearest, and how near the nearest of what is no copy lies, does not.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

SAME = 1e-5  # below 1: cosine of a picture with itself, rounded
COSINE, NORMALISED = "cosine", "score_normalised"
SIMILARITIES = (COSINE, NORMALISED)
NEAREST = 3  # of a background set, whose mean is taken away: SSCD's release has weight 1 and the first three


@dataclass(frozen=True)
class TrainingPictures:
    """Training pictures by their descriptors.

    Attributes:
        descriptors: unit vectors, (pictures, dim).
        owners: index of the prompt that each is of, (pictures,).
    """

    descriptors: np.ndarray
    owners: np.ndarray

    @cached_property
    def own(self) -> dict[int, np.ndarray]:
        """Which pictures are a prompt's own, bool (pictures,) by its index: its pictures, and the same ones of others.

        One picture may be there under several captions; whichever of them is found is right.
        """
        found = {}
        for owner in np.unique(self.owners).tolist():
            is_its = self.owners == owner
            cosines = self.descriptors @ self.descriptors[is_its].T
            found[owner] = is_its | (cosines > 1 - SAME).any(1)
        return found

    def to_nearest_other(self) -> np.ndarray:
        """Cosine of each picture to the nearest of another prompt, (pictures,): how near different pictures lie.

        The same picture under another caption is left out; NaN where there is no other.
        """
        cosines = self.descriptors @ self.descriptors.T
        found = np.empty(len(cosines), cosines.dtype)
        for place, (line, owner) in enumerate(zip(cosines, self.owners.tolist(), strict=True)):
            found[place] = largest(line[~self.own[owner]])
        return found

    def compare(self, descriptors: np.ndarray, owner: int | None = None) -> "Nearest":
        """Images beside all training pictures.

        Args:
            descriptors: unit vectors, (images, dim), of one prompt.
            owner: index of that prompt; None, or one without training pictures, for images that have no own.
        """
        cosines = descriptors @ self.descriptors.T
        nobody = np.zeros(len(self.owners), bool)
        is_own = nobody if owner is None else self.own.get(owner, nobody)
        own = np.array([largest(line[is_own]) for line in cosines])
        other = np.array([largest(line[~is_own]) for line in cosines])
        is_right = np.where(np.isnan(own) | np.isnan(other), np.nan, own > other)
        places = cosines.argmax(1)
        return Nearest(own, cosines.max(1), places, self.owners[places], is_right)


@dataclass(frozen=True)
class Nearest:
    """How images lie to training pictures, each (images,).

    Attributes:
        own: cosine to the nearest of the prompt's own; NaN where there is none. Higher = copy.
        nearest: cosine to the nearest of all.
        places: which of all pictures that is.
        owners: index of the prompt that it is of.
        is_right: 1 where the prompt's own are nearer than all others, 0 where not; NaN where one of both is missing.
    """

    own: np.ndarray
    nearest: np.ndarray
    places: np.ndarray
    owners: np.ndarray
    is_right: np.ndarray


def largest(values: np.ndarray) -> float:
    """The largest value, NaN of none."""
    return float(values.max()) if len(values) else float("nan")


def to_background(descriptors: np.ndarray, background: np.ndarray, k: int = NEAREST) -> np.ndarray:
    """What score normalisation takes away of an image's cosines: the mean over its k nearest of a background set.

    Pizzi et al. (CVPR 2022): an image that is like many pictures is no copy of the one that it is most like. It is
    the same for all training pictures of an image, so that their order stays.

    Args:
        descriptors: unit vectors of images, (images, dim).
        background: of pictures that are neither training pictures nor compared, (pictures, dim); k or more.

    Returns:
        (images,), higher = more ordinary.

    Raises:
        ValueError: if there are fewer than k.
    """
    if len(background) < k:
        raise ValueError(f"score normalisation takes the {k} nearest of a background set, which has {len(background)}")
    return np.sort(descriptors @ background.T, axis=1)[:, -k:].mean(1)
