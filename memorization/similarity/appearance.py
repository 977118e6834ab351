"""What sets of images look like: plain numbers and CLIP's features of every image, beside those of ordinary images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.errors import InputError, input_errors
from memorization.finished_runs import Run
from memorization.similarity.cmmd import FeatureSet
from memorization.similarity.descriptors import ClipSimilarity
from memorization.similarity.quality import contrast, log_spectrum, saturated_share, spectrum_distance

RARE = 0.01  # of ordinary images lie beyond each limit


@dataclass(frozen=True)
class PictureSet:
    """Images that are read as they are asked for.

    Attributes:
        name: as notes and progress call them.
        parts: of each prompt (of a folder, each file) its text and what reads its images, uint8 (images, height,
            width, 3).
    """

    name: str
    parts: Sequence[tuple[str, Callable[[], np.ndarray]]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (read() for _, read in self.parts)


def pictures_of_run(run: Run) -> PictureSet:
    """All images of a run."""
    return PictureSet(run.key, [(row["prompt"], partial(run.images, row)) for row in run.rows])


def pictures_of_folder(folder: Path, size: tuple[int, int] | None, option: str = "--quality_reference") -> PictureSet:
    """All pictures of a folder, cropped at the centre and resized to (height, width), or as they are without a size.

    Raises:
        InputError: if there are none.
    """
    known = Image.registered_extensions()
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in known and not p.name.startswith("."))
    if not paths:
        raise InputError(f"{folder} holds no pictures; give a folder of them, or a result file, by {option}")
    return PictureSet(str(folder), [(path.name, partial(read_fitted, path, size)) for path in paths])


def read_fitted(path: Path, size: tuple[int, int] | None) -> np.ndarray:
    """A picture as an array (1, height, width, 3) of the given height and width, or its own."""
    if size is None:
        return read_image(path)[None]
    fitted = ImageOps.fit(Image.fromarray(read_image(path)), size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(fitted)[None]


@dataclass(frozen=True)
class Appearance:
    """What every image of a set looks like.

    Attributes:
        prompts: of each image.
        saturated, contrast: of `similarity.quality`, (images,).
        spectra: (images, rings).
        features: CLIP's, unit vectors (images, dim); None without CLIP.
        counts: images of each part of the set.
    """

    prompts: Sequence[str]
    saturated: np.ndarray
    contrast: np.ndarray
    spectra: np.ndarray
    features: np.ndarray | None
    counts: Sequence[int]

    def feature_set(self, prompts: set[str] | None = None) -> FeatureSet:
        """Features for CMMD, of some prompts where they are named."""
        assert self.features is not None
        found = FeatureSet(self.features, self.prompts)
        return found if prompts is None else found.only(prompts)


def look_at(pictures: PictureSet, clip: ClipSimilarity | None) -> Appearance:
    """
    Raises:
        InputError: if images are missing or too small.
    """
    prompts: list[str] = []
    parts: list[tuple[np.ndarray, ...]] = []
    with tqdm(pictures.parts, desc=f"{pictures.name}, quality", unit="prompt") as bar, input_errors():
        for prompt, read in bar:
            images = read()
            prompts += [prompt] * len(images)
            plain_numbers = saturated_share(images), contrast(images), log_spectrum(images)
            parts.append(
                (*plain_numbers, np.zeros((len(images), 0)) if clip is None else clip.features(images).cpu().numpy())
            )
    saturated, contrasts, spectra, features = (np.concatenate(values) for values in zip(*parts, strict=True))
    counts = [len(part[0]) for part in parts]
    return Appearance(prompts, saturated, contrasts, spectra, None if clip is None else features, counts)


@dataclass(frozen=True)
class Ordinary:
    """Ordinary images as what others are measured against."""

    appearance: Appearance

    @cached_property
    def spectrum(self) -> np.ndarray:
        """Mean spectrum, (rings,)."""
        return self.appearance.spectra.mean(0)

    @cached_property
    def limits(self) -> dict[str, tuple[float, float]]:
        """What of each plain number is rare among ordinary images: (low, high)."""
        count = len(self.appearance.prompts)
        # An image is part of the mean that it is compared with; this is its distance to the mean of the others.
        distances = spectrum_distance(self.appearance.spectra, self.spectrum) * count / max(count - 1, 1)
        contrasts = self.appearance.contrast
        return {
            "saturated": (-np.inf, rare_limit(self.appearance.saturated)),
            "contrast": (-rare_limit(-contrasts), rare_limit(contrasts)),
            "spectrum": (-np.inf, rare_limit(distances)),
        }

    def numbers_of(self, appearance: Appearance) -> dict[str, np.ndarray]:
        """Plain numbers of every image, (images,) each, and whether one of them lies outside of what is ordinary."""
        found = {
            "saturated": appearance.saturated,
            "contrast": appearance.contrast,
            "spectrum": spectrum_distance(appearance.spectra, self.spectrum),
        }
        outside = [(values < self.limits[n][0]) | (values > self.limits[n][1]) for n, values in found.items()]
        return found | {"outside": np.any(outside, 0).astype(np.float32)}


def rare_limit(values: np.ndarray) -> float:
    """What a further value of the same kind exceeds with probability `RARE`: the highest where there are too few.

    The ceil((1 - RARE)(n + 1))-th smallest of n values.
    """
    place = int(np.ceil((1 - RARE) * (len(values) + 1)))
    return float(np.sort(values)[min(place, len(values)) - 1])
