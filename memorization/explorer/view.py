"""What is known of one picture so far: every stage of the work adds to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from memorization.data.prompts import PromptRecord
from memorization.explorer.asked import Asked
from memorization.explorer.controls import Controls
from memorization.tiles import AttentionTiles


@dataclass(frozen=True)
class Neighbour:
    """A training picture beside the generated one.

    Attributes:
        image: uint8 (height, width, 3).
        text: its caption or its name.
        similarity: cosine by the copy descriptor; None where there is none.
    """

    image: np.ndarray
    text: str
    similarity: float | None


@dataclass(frozen=True)
class Mitigated:
    """The same seed under a mitigation.

    Attributes:
        image: uint8 (height, width, 3).
        measures: by the names of `similarity.measure` and `evaluation.quality`, a number each.
    """

    method: str
    strength: float
    image: np.ndarray
    magnitude_before: float
    magnitude_after: float
    unet_evals_per_image: float
    measures: Mapping[str, float]


@dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        record: the prompt, out of the data set with known training pictures where it is there.
        place: its position in that data set; None where it is not there.
        curve: D of every step so far.
        preview: the picture so far, uint8 (height, width, 3).
        image: the finished one.
        scores: by row key, (1 image,) or (1 image, steps).
        mask: bright-ending mask, (h, w).
        tiles: by layer; None before they are there, empty where the model has none.
        neighbours: training pictures, the most similar first; None before they are there.
        measures: of the plain picture, as of `Mitigated`.
        told: by stage, why it could not be.
        stage: what is under way; empty at the end.
    """

    asked: Asked
    record: PromptRecord
    place: int | None = None
    curve: tuple[float, ...] = ()
    preview: np.ndarray | None = None
    image: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    mask: np.ndarray | None = None
    tiles: Mapping[str, AttentionTiles] | None = None
    neighbours: Sequence[Neighbour] | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    controls: Controls | None = None
    mitigated: Mapping[int, Mitigated] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict)
    stage: str = ""
