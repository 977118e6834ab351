"""Whose training picture is the nearest, how near different ones lie, and what score normalisation takes away."""

import numpy as np
import pytest

from memorization.similarity.nearest import TrainingPictures, to_background


def units(seed, count, dim=6):
    values = np.random.default_rng(seed).normal(size=(count, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_rank_and_background_by_loops():
    descriptors, owners = units(0, 7), np.array([3, 3, 5, 5, 5, 8, 9])
    descriptors[6] = descriptors[2]  # one picture under two captions
    training, images = TrainingPictures(descriptors, owners), units(1, 40)
    found = training.compare(images, 5)
    for k, image in enumerate(images):
        by_picture = [float(image @ d) for d in descriptors]
        own = max(c for c, place in zip(by_picture, range(7), strict=True) if place in (2, 3, 4, 6))
        other = max(c for c, place in zip(by_picture, range(7), strict=True) if place in (0, 1, 5))
        assert found.own[k] == pytest.approx(own) and found.nearest[k] == pytest.approx(max(own, other))
        assert found.is_right[k] == (own > other) and found.owners[k] == owners[int(np.argmax(by_picture))]
    assert 0 < found.is_right.mean() < 1
    others = [
        max(d @ e for j, e in enumerate(descriptors) if j not in mine)
        for d, mine in zip(
            descriptors, [(0, 1), (0, 1), (2, 3, 4, 6), (2, 3, 4, 6), (2, 3, 4, 6), (5,), (6, 2)], strict=True
        )
    ]
    assert training.to_nearest_other().tolist() == pytest.approx(others)
    assert training.compare(descriptors[owners == 9], 9).is_right.tolist() == [1]


def test_images_without_a_training_picture_have_no_rank():
    training = TrainingPictures(units(0, 4), np.array([0, 0, 1, 2]))
    for owner in (None, 7):
        found = training.compare(units(1, 3), owner)
        assert np.isnan(found.own).all() and np.isnan(found.is_right).all() and np.isfinite(found.nearest).all()
    alone = TrainingPictures(units(0, 2), np.array([4, 4]))
    assert np.isnan(alone.to_nearest_other()).all() and np.isnan(alone.compare(units(1, 3), 4).is_right).all()


def test_score_normalisation_is_the_mean_of_the_nearest():
    images, background = units(2, 5), units(3, 9)
    expected = [np.mean(sorted(image @ b for b in background)[-3:]) for image in images]
    assert to_background(images, background).tolist() == pytest.approx(expected)
    assert to_background(images, background, 1).tolist() == pytest.approx((images @ background.T).max(1).tolist())
    with pytest.raises(ValueError, match="the 3 nearest of a background set, which has 2"):
        to_background(images, background[:2])
