"""Numbers of a picture and the training pictures next to it: by the evaluators of the scripts, and from an index."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord
from memorization.explorer.controls import Controls
from memorization.explorer.view import Neighbour
from memorization.similarity.appearance import PictureSet, look_at
from memorization.similarity.index.describers import Describer
from memorization.similarity.index.search import most_similar
from memorization.similarity.index.stored import StoredIndex
from memorization.similarity.measure import Evaluators, measure_images

MOST_NEIGHBOURS = 6


@dataclass(frozen=True)
class Measures:
    """What pictures are measured with.

    Attributes:
        evaluators: as `inference_mem.py` and `eval_mem.py` have them.
        index: of a training set, with what describes pictures as it does; None without.
    """

    evaluators: Evaluators
    index: tuple[StoredIndex, Describer] | None = None

    def of(
        self, image: np.ndarray, record: PromptRecord, seeds: Sequence[int], mask: np.ndarray | None
    ) -> dict[str, float]:
        """Similarity to the training pictures, where they are known, and to the prompt.

        Args:
            image: uint8 (height, width, 3).
            mask: bright-ending mask of the unmitigated picture, for LS; None leaves it out.
        """
        key = (record.index, seeds[0])
        evaluators = replace(self.evaluators, masks={} if mask is None else {key: mask})
        row = {"index": record.index, "prompt": record.prompt, "seeds": seeds, "kind": record.kind}
        found = measure_images(image[None], row, evaluators, record)
        lists = {name: values for name, values in found.items() if isinstance(values, list)}
        return {name: float(values[0]) for name, values in lists.items() if np.isfinite(values[0])}

    def quality(self, controls: Controls, image: np.ndarray | None) -> dict[str, float]:
        """Saturation, contrast and spectrum, and whether they are unlike those of the controls' pictures."""
        assert image is not None
        appearance = look_at(PictureSet("picture", [("", lambda: image[None])]), None)
        return {name: float(values[0]) for name, values in controls.ordinary.numbers_of(appearance).items()}

    def neighbours(self, image: np.ndarray, record: PromptRecord) -> list[Neighbour]:
        """The prompt's own training pictures, or those of the index that are most similar."""
        return self.of_index(image) if self.index is not None else self.own(image, record)

    def own(self, image: np.ndarray, record: PromptRecord) -> list[Neighbour]:
        pictures = [read_image(path) for path in record.reference_images[:MOST_NEIGHBOURS]]
        cosines: Sequence[float | None] = [None] * len(pictures)
        if self.evaluators.descriptor is not None and pictures:
            own, theirs = self.evaluators.descriptor([image]), self.evaluators.descriptor(pictures)
            cosines = (theirs @ own[0]).tolist()
        found = [Neighbour(p, "of this prompt", c) for p, c in zip(pictures, cosines, strict=True)]
        return sorted(found, key=lambda n: -(n.similarity or 0))

    def of_index(self, image: np.ndarray) -> list[Neighbour]:
        assert self.index is not None
        index, describer = self.index
        count = min(MOST_NEIGHBOURS, index.num_rows)
        cosines, rows = most_similar(index, describer([image]), count)
        entries: Mapping = index.entries(rows[0])
        near = [(float(c), entries[int(r)]) for c, r in zip(cosines[0], rows[0], strict=True) if np.isfinite(c)]
        return [Neighbour(read_image(entry.picture), entry.caption or "no caption", c) for c, entry in near]
