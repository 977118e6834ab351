"""The training pictures of an audit by the descriptors that its index holds: none is described again."""

import numpy as np

from memorization.audit.captions import TrainingSet
from memorization.similarity.index.stored import StoredIndex
from memorization.similarity.nearest import TrainingPictures


def indexed_pictures(index: StoredIndex, training: TrainingSet) -> TrainingPictures:
    """
    Args:
        index: of the training set; rounded to float16, which moves a cosine by less than 0.001.
    """
    rows, owners = range(index.num_rows), [owner for owner, _ in training.pictures]
    assert [entry.index for entry in index.entries(rows).values()] == owners  # one order, in either
    descriptors = index.descriptors(rows)
    return TrainingPictures(descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True), np.array(owners))
