"""A copied region as a picture of its own."""

import numpy as np
import pytest

from memorization.similarity.regions import masked_region


def test_a_region_is_cropped_and_the_rest_has_its_mean_colour():
    picture = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    mask = np.zeros((4, 6), bool)  # half the picture's size
    mask[1, 2:4] = mask[2, 2] = True
    found = masked_region(picture, mask)
    inside = [picture[y, x] for y in range(2, 6) for x in range(4, 8) if y < 4 or x < 6]
    assert found.shape == (4, 4, 3) and (found[:2] == picture[2:4, 4:8]).all()
    assert (found[2:, 2:] == np.mean(inside, 0).round()).all() and (found[2:, :2] == picture[4:6, 4:6]).all()
    other = picture.copy()
    other[~np.kron(mask, np.ones((2, 2), bool))] = 0  # what is outside of the region says nothing
    assert (masked_region(other, mask) == found).all()
    assert (masked_region(picture, np.ones((3, 3), bool)) == picture).all()


def test_a_mask_that_vanishes_is_refused():
    mask = np.zeros((64, 64), bool)
    mask[3, 3] = True
    with pytest.raises(ValueError, match="no pixel left in a picture of 8 x 8"):
        masked_region(np.zeros((8, 8, 3), np.uint8), mask)
