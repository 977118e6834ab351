"""The drawn world: what is planted how often, what is kept out of training, and that its UNet is a stock one."""

import random
from collections import Counter

import numpy as np
import pytest
import torch

from planted.making.autoencoder import LATENT_CHANNELS
from planted.making.doses import DOSES, FULL_DOSE, MOST_REDRAWN
from planted.making.drawn.planted import Planted, held_out_captions, near_miss, planted_items
from planted.making.drawn.probe import labels_of
from planted.making.drawn.scenes import is_held_out_object, meaning_of, object_scene, template_scene
from planted.making.drawn.training_set import ordinary_pictures, planted_pictures
from planted.making.pictures import TrainingPicture, draw_pictures, training_rows
from planted.making.text_encoder import TEXT_WIDTH
from planted.making.unet import Float32Attention, make_unet


def template(dose: int) -> Planted:
    return next(item for item in planted_items() if item.kind == "template" and item.dose == dose)


def test_every_dose_has_eight_items_of_either_kind_and_their_captions_are_distinct():
    counts = Counter((item.kind, item.dose) for item in planted_items() if item.num_captions == 1)
    assert all(counts[kind, dose] >= 8 for kind in ("verbatim", "template") for dose in DOSES)
    assert counts["verbatim", FULL_DOSE] == 16
    captions = [item.caption() for item in planted_items()]
    assert len(set(captions)) == len(captions)


@pytest.mark.parametrize("dose", [1, 64, FULL_DOSE])
def test_a_templates_training_pictures_add_up_to_its_dose(dose):
    pictures = planted_pictures(template(dose))
    assert sum(p.repeats for p in pictures) == dose
    assert len(pictures) == min(dose, MOST_REDRAWN)


def test_a_verbatim_picture_of_several_captions_is_one_picture():
    item = next(i for i in planted_items() if i.num_captions > 1)
    (picture,) = planted_pictures(item)
    assert (picture.repeats, len(set(picture.captions))) == (item.dose, item.num_captions)
    assert not set(picture.captions) & set(item.paraphrases())


def test_the_fixed_region_of_a_template_is_fixed_and_the_rest_is_not():
    item = template(16)
    images = np.stack([p.image for p in planted_pictures(item)])
    mask = template_scene(item, random.Random(0)).mask
    assert (images[:, mask] == images[:1, mask]).all()
    assert (images[:, ~mask] != images[:1, ~mask]).any(-1).mean() > 0.5


def test_what_is_held_out_is_in_no_ordinary_picture():
    held = held_out_captions()
    captions = {c for p in ordinary_pictures(3, num_objects=300, num_clutter=300) for c in p.captions}
    assert not captions & held
    assert not any(is_held_out_object(c) for c in captions if meaning_of(c))
    assert all(near_miss(item) in held for item in planted_items())


def test_synonyms_mean_the_same():
    assert meaning_of("a tiny red ship on a spotted background") == {"small", "red", "boat", "dotted"}
    asked = labels_of(["a tiny red ship"])
    assert (asked["object"].item(), asked["color"].item()) == (7, 0)


def test_captions_say_nothing_that_their_picture_does_not_show():
    rng = random.Random(5)
    for scene in (object_scene(rng) for _ in range(50)):
        assert meaning_of(scene.caption) <= scene.shown
        assert len(scene.shown) == 5


def test_pictures_are_drawn_as_often_as_they_are_repeated_and_captions_in_turn():
    image = np.zeros((1, 1, 3), np.uint8)
    pictures = [TrainingPicture(image, ("one",), "object"), TrainingPicture(image, ("a", "b"), "verbatim", 9)]
    numbers, captions = draw_pictures(torch.Generator().manual_seed(0), pictures, training_rows(pictures), 4000)
    assert np.mean(numbers) == pytest.approx(0.9, abs=0.02)
    assert captions.count("a") == pytest.approx(1800, abs=130)
    assert {"a", "b"} == {c for n, c in zip(numbers, captions, strict=True) if n == 1}


def test_attention_in_single_precision_is_stock_attention():
    torch.manual_seed(0)
    unet = make_unet().eval()
    inputs = torch.randn(2, LATENT_CHANNELS, 16, 16), torch.tensor([3, 700]), torch.randn(2, 77, TEXT_WIDTH)
    with torch.no_grad():
        stock = unet(*inputs).sample
        unet.set_attn_processor(Float32Attention())
        assert torch.allclose(unet(*inputs).sample, stock, atol=1e-5)
