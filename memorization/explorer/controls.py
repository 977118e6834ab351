"""The band that a curve is seen against: ordinary captions, measured once for every way of sampling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from memorization.api import detect
from memorization.data.prompts import PromptRecord
from memorization.evaluation.decisions import conformal_p_values
from memorization.sampling import Sampling
from memorization.scores import MAGNITUDE, image_scores
from memorization.similarity.appearance import Ordinary, PictureSet, look_at

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

CONTROL_SEED = 0  # --gen_seed of the controls, whatever the prompt's


@dataclass(frozen=True)
class Controls:
    """What ordinary captions give.

    Attributes:
        scores: by row key, an array each, (controls, 1 image) or (controls, 1 image, steps).
        ordinary: what their pictures look like, which others are measured against.
        source: the captions' name.
    """

    scores: Mapping[str, np.ndarray]
    ordinary: Ordinary
    source: str

    def __len__(self) -> int:
        return len(self.scores[MAGNITUDE])

    @property
    def curves(self) -> np.ndarray:
        """D of every step, (controls, steps)."""
        return self.scores[MAGNITUDE][:, 0]

    def of(self, key: str, horizon: int | None) -> np.ndarray:
        """A score of every control, (controls,)."""
        return np.array([image_scores({key: one}, key, horizon).mean() for one in self.scores[key]])

    def p_value(self, score: float, key: str, horizon: int | None) -> float:
        """Conformal p-value of a prompt's score, that of `eval_mem.py decisions`."""
        return float(conformal_p_values([score], self.of(key, horizon))[0])


def measure_controls(
    pipe: "DenoisingPipeline",
    records: Sequence[PromptRecord],
    how: Sampling,
    source: str,
    tell: Callable[[int], None],
) -> Controls:
    """Generate the captions and measure them, in the groups of `detect_mem.py`, so that the numbers are its.

    Args:
        how: of the prompt; one image per caption is made.
        tell: gets the number of captions that are measured.
    """
    mine = Sampling(1, how.num_inference_steps, how.guidance_scale, CONTROL_SEED)
    found = []
    for group in mine.groups(records):
        found += detect(pipe, group, num_inference_steps=mine.num_inference_steps, guidance_scale=mine.guidance_scale)
        tell(len(found))
    scores = {key: np.stack([one.scores[key] for one in found]) for key in found[0].scores}
    parts = [(one.prompt, lambda images=one.images: images) for one in found]
    return Controls(scores, Ordinary(look_at(PictureSet(source, parts), None)), source)
