"""Seeds of images."""

from memorization.seeds import image_seed


def test_image_seeds_stay_apart_and_within_what_torch_takes():
    highest = image_seed(2**32 - 1, 99_999, 999)
    assert highest < 2**63
    assert image_seed(0, 0, 999) + 1 == image_seed(0, 1, 0)
