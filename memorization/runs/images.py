"""The image files of a run: a PNG per image, and all of them in one npz."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from memorization.data.prompts import PromptRecord
from memorization.decoding import NotFiniteError
from memorization.errors import InputError
from memorization.files.layout import RunFiles
from memorization.files.npz import Streamed, array_shape, write_npz
from memorization.files.whole import WAY_OUT, read_png, save_png

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline
    from memorization.runs.session import Session


def decode_images(pipe: "DenoisingPipeline", latents: torch.Tensor, index: int, seeds: Sequence[int]) -> np.ndarray:
    """Images of one prompt, uint8 (images, height, width, 3).

    Raises:
        InputError: naming the image, if one is not finite: saved, it would be black, and count as a hidden copy.
    """
    try:
        return pipe.decode(latents)
    except NotFiniteError as error:
        half = "" if pipe.denoiser.dtype == torch.float32 else "--dtype float32, or "
        raise InputError(
            f"the image of prompt {index} at seed {seeds[error.position]} cannot be made: {error.what}; use {half}"
            "smaller values of --guidance_scale and the strengths"
        ) from error


def decode_or_leave_out(session: "Session", record: PromptRecord, latents: torch.Tensor) -> np.ndarray | None:
    """Images of one prompt of a run; None where one is not finite, which is said, and the prompt gets no row."""
    try:
        return decode_images(session.pipe, latents, record.index, session.seeds(record))
    except InputError as error:
        session.leave_out(record.index, "the image", str(error))
        return None


class RunImages:
    """Images by (prompt index, seed).

    Attributes:
        keys: of all images of the run, in order.
    """

    def __init__(self, files: RunFiles, keys: Sequence[tuple[int, int]], store_png: bool, store_npz: bool):
        """
        Args:
            store_png, store_npz: what is kept in the end.
        """
        self.files, self.keys, self.store_png, self.store_npz = files, keys, store_png, store_npz

    @property
    def are_wanted(self) -> bool:
        return self.store_png or self.store_npz

    def save(self, index: int, seeds: Sequence[int], images: np.ndarray) -> None:
        """Write one prompt's images, uint8 (images, height, width, 3)."""
        for seed, image in zip(seeds, images, strict=True):
            save_png(self.files.image(index, seed), image)

    def paths(self) -> Iterator[Path]:
        return (self.files.image(index, seed) for index, seed in self.keys)

    def are_kept(self) -> bool:
        """Whether every image is there as PNG; of a finished run without --store_img_png none is."""
        return all(path.exists() for path in self.paths())

    def finish(self) -> Path | None:
        """Collect the PNGs into an npz, one at a time, and drop what was not asked for.

        Returns:
            Path of the npz; None where no images are wanted.

        Raises:
            InputError: if a PNG of a finished row is gone.
        """
        if not self.are_wanted:
            return None
        npz, count = self.files.images_npz, len(self.keys)
        missing = next((p for p in self.paths() if not p.exists()), None)
        if missing is not None and (self.store_png or not holds_images(npz, count)):
            raise InputError(f"{missing} is missing although its row is finished; rerun with --overwrite")
        if self.store_npz and missing is None:
            shape = read_png(next(self.paths())).shape
            write_npz(npz, {"images": Streamed((count, *shape), np.uint8, read_equal(self.paths(), shape))})
        if not self.store_png:
            for path in self.paths():
                path.unlink(missing_ok=True)
        return npz


def holds_images(npz_path: Path, count: int) -> bool:
    """Whether there is a file with so many images: the PNGs it was made of may be gone."""
    return npz_path.exists() and array_shape(npz_path, "images")[0] == count


def read_equal(paths: Iterable[Path], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the images at `paths`, all of one shape.

    Raises:
        InputError: if one cannot be read or is of another shape.
    """
    for path in paths:
        image = read_png(path)
        if image.shape != shape:
            raise InputError(f"images of one run differ in size: {path} is {image.shape}, others {shape}; {WAY_OUT}")
        yield image
