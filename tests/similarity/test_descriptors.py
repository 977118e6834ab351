"""Copy descriptors and perceptual distance: preprocessing, nearest references, what is said when they are missing."""

import numpy as np
import pytest
from PIL import Image

from helpers.eval_runs import quarters, write_descriptor
from memorization.similarity.descriptors import CopyDescriptor, PerceptualDistance, sscd_transform
from memorization.similarity.pixels import copy_similarity, seed_diversity


def test_references_are_the_nearest_and_preprocessing_is_as_stated(tmp_path):
    descriptor = CopyDescriptor(write_descriptor(tmp_path))
    images = [quarters(0), quarters(1)]
    similarity = copy_similarity(descriptor(images), descriptor([quarters(5), quarters(1), quarters(0)]))
    assert similarity.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert seed_diversity(descriptor([images[0]] * 2)) == pytest.approx(0, abs=1e-6)
    assert np.isnan(seed_diversity(descriptor(images[:1])))
    white, wide = Image.new("RGB", (300, 400), "white"), Image.new("RGB", (600, 300))
    assert sscd_transform("wen")(white).shape == (3, 224, 224) and sscd_transform("wen")(white).unique().tolist() == [1]
    top = [(1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert sscd_transform("official_320")(white)[:, 0, 0].tolist() == pytest.approx(top)
    assert sscd_transform("official_320")(wide).shape == (3, 320, 320)
    assert sscd_transform("official_288")(wide).shape == (3, 288, 576)
    sizes = CopyDescriptor(write_descriptor(tmp_path), "official_288")([np.asarray(white), np.asarray(wide)])
    assert sizes.shape == (2, 12)


def test_lpips_says_what_is_missing():
    try:
        import lpips  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install lpips"):
            PerceptualDistance()
