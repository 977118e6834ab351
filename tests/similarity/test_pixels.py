"""Local similarity by hand."""

import numpy as np
import pytest

from memorization.similarity.pixels import local_similarity


def test_local_similarity_by_hand():
    """Equations 9 and 10 on two pixels: 0 where SSCD finds a copy, else the distance where the mask is."""
    image = np.full((2, 2, 2, 3), 255, np.uint8)
    reference = image[0].copy()
    reference[0, 0] = 0  # differs by 1 in three channels at one pixel; 2 x 2 pixels scale to 512 by 256
    far, near = local_similarity(image, [np.zeros_like(reference), reference], [0.2, 0.7])
    assert near == 0 and far == pytest.approx(-(3**0.5) * 256)
    mask = np.array([[[0, 2], [2, 2]], [[4, 0], [0, 0]]], np.float32)
    assert local_similarity(image, [reference], [0, 0], mask) == pytest.approx([0, -(3**0.5) * 256])
