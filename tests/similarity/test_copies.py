"""The field's cut of a copy: SSCD strictly above 0.5."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.eval_runs import make_row
from memorization.data.prompts import PromptRecord
from memorization.files.whole import save_png
from memorization.similarity.measure import MEASURES, Evaluators, measure_row
from memorization.similarity.pixels import local_similarity


def test_an_image_is_a_copy_above_one_half_and_not_at_it(tmp_path):
    """A descriptor that gives the images cosines of 0.45, 0.5 and 0.55 with the training image, exact in float64."""
    cosines = torch.tensor([0.45, 0.5, 0.55], dtype=torch.float64)
    own, training = torch.stack([cosines, (1 - cosines**2).sqrt()], 1), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    save_png(tmp_path / "0.png", np.full((8, 8, 3), 90, np.uint8))
    images = np.full((3, 8, 8, 3), 120, np.uint8)
    run, record = SimpleNamespace(images=lambda row: images), PromptRecord(0, "p", "p")
    record = type(record)(**{**vars(record), "reference_images": (tmp_path / "0.png",)})
    evaluators = Evaluators(descriptor=lambda pictures: own if len(pictures) == 3 else training)
    found = measure_row(run, make_row(0, count=3), evaluators, record)
    assert found["sscd"] == pytest.approx([0.45, 0.5, 0.55]) and found["copied"] == [0, 0, 1]
    assert MEASURES["copied"] == "share SSCD > 0.5"


def test_ls_looks_at_the_pixels_below_one_half_alone():
    """-1[SSCD < 0.5], as Chen et al. (ICLR 2025) write it: at 0.5 it is 0 already."""
    images, reference = np.full((4, 8, 8, 3), 120, np.uint8), np.full((8, 8, 3), 90, np.uint8)
    assert [v < 0 for v in local_similarity(images, [reference], [0.4, 0.49, 0.5, 0.6])] == [True, True, False, False]
