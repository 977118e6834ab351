"""Descriptors of whole runs, of a data set's training pictures, and of a background set; each picture read once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError, input_errors
from memorization.finished_runs import Run, read_run
from memorization.similarity.appearance import pictures_of_folder, pictures_of_run
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.nearest import SAME, TrainingPictures


@dataclass(frozen=True)
class Described:
    """The images of one prompt.

    Attributes:
        run, row: where they are from.
        descriptors: unit vectors, (images, dim).
    """

    run: Run
    row: Mapping[str, Any]
    descriptors: np.ndarray


def describe(descriptor: CopyDescriptor, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Unit descriptors of uint8 pictures (height, width, 3), float32 (pictures, dim).

    Raises:
        InputError: if the descriptor fails on them.
    """
    with input_errors():
        return descriptor(pictures).cpu().numpy()


def describe_run(run: Run, descriptor: CopyDescriptor) -> list[Described]:
    """All images of a run, prompt by prompt.

    Raises:
        InputError: if images are missing.
    """
    with tqdm(run.rows, desc=run.key, unit="prompt") as bar:
        return [Described(run, row, describe(descriptor, list(run.images(row)))) for row in bar]


def describe_training(records: Mapping[int, PromptRecord], descriptor: CopyDescriptor) -> TrainingPictures:
    """All training pictures of some prompts.

    Args:
        records: with training pictures, by prompt index.
    """
    parts, owners = [], []
    with tqdm(records.items(), desc="training pictures", unit="prompt") as bar:
        for index, record in bar:
            parts.append(describe(descriptor, [read_image(path) for path in record.reference_images]))
            owners += [index] * len(parts[-1])
    return TrainingPictures(np.concatenate(parts), np.array(owners))


def describe_background(source: Path, descriptor: CopyDescriptor, training: TrainingPictures) -> np.ndarray:
    """The pictures of a folder, or of a finished run, unit descriptors (pictures, dim).

    Raises:
        InputError: if there are none, or a training picture is among them.
    """
    if not source.exists():
        raise InputError(f"--background {source} does not exist; give a folder of pictures, or a result file")
    is_folder = source.is_dir()
    pictures = pictures_of_folder(source, None, "--background") if is_folder else pictures_of_run(read_run(source))
    with tqdm(pictures, desc="background", unit="picture") as bar:
        found = np.concatenate([describe(descriptor, list(images)) for images in bar])
    if (found @ training.descriptors.T).max() > 1 - SAME:
        raise InputError(f"--background {source} holds a training picture: copies of it would be taken for ordinary")
    return found
