"""The bundled evaluators on scenes of a seed they were neither trained nor measured on."""

import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from memorization.bundled import CLIP, COPY_DESCRIPTOR
from planted.making import evaluator_networks as parts
from planted.making import stage, train_evaluators
from planted.making.evaluators import networks
from planted.making.evaluators.copies import describe
from planted.making.evaluators.measure import clip_similarity, load_clip
from planted.making.evaluators.train import fits as fitting
from planted.making.measure_copies import PREPROCESS, training_images
from planted.making.scenes import COLORS, SHAPES, planted_items

FOLDER = COPY_DESCRIPTOR.parent
SEED = 4242


@pytest.fixture(scope="module")
def descriptor():
    return torch.jit.load(COPY_DESCRIPTOR).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The CLIP from a copy of its folder alone, without the hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("empty_cache")))
        return load_clip(CLIP)


@pytest.fixture(scope="module")
def clutter():
    rng = random.Random(SEED)
    return [Image.fromarray(parts.captioned_clutter(rng).image) for _ in range(40)]


def cosine(a, b):
    return (a @ b.T).numpy()


def test_evaluators_are_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 6e6


@pytest.mark.parametrize("size", [(224, 224), (320, 320), (64, 48)])
def test_descriptors_are_unit_vectors_at_any_size_and_do_not_depend_on_the_batch(descriptor, size):
    images = torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(SEED))
    together = descriptor(images)
    assert together.shape == (3, networks.DIMENSIONS)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.allclose(together[1:2], descriptor(images[1:2]), atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


@pytest.mark.parametrize("name", PREPROCESS)
def test_blurred_and_cropped_copies_score_high_and_others_low(descriptor, clutter, name):
    originals = describe(descriptor, clutter, name)
    blurred = [i.filter(ImageFilter.GaussianBlur(1.2)) for i in clutter]
    cropped = [i.crop((4, 6, 60, 60)).resize((64, 64), Image.BICUBIC) for i in clutter]
    unrelated = ~np.eye(len(clutter), dtype=bool)
    for copies in (blurred, cropped):
        scores = cosine(describe(descriptor, copies, name), originals)
        assert scores.diagonal().min() > 0.5
        assert np.quantile(scores[unrelated], 0.99) < 0.5
        assert abs(scores[unrelated].mean()) < 0.1


def test_planted_images_score_low_with_each_other_and_templates_with_their_other_draws_in_between(descriptor):
    images = [training_images(i.number) for i in planted_items()]
    first = describe(descriptor, [i[0] for i in images], "wen")
    unrelated = cosine(first, first)[~np.eye(len(images), dtype=bool)]
    assert abs(unrelated.mean()) < 0.1
    assert np.quantile(unrelated, 0.99) < 0.5
    templates = [i.number for i in planted_items() if i.kind == "template"]
    second = describe(descriptor, [images[n][1] for n in templates], "wen")
    partial = (first[templates] * second).sum(1).numpy()
    assert np.quantile(unrelated, 0.99) < np.median(partial) < 0.95


def test_clip_ranks_the_right_shapes_caption_first(clip):
    rng = random.Random(SEED)
    scenes = {}
    while len(scenes) < 50:
        scene = parts.captioned_shapes(rng)
        scenes.setdefault(scene.caption_meaning, scene)
    images = [Image.fromarray(s.image) for s in scenes.values()]
    best = clip_similarity(clip, images, [s.caption for s in scenes.values()]).argmax(1)
    assert (best == torch.arange(50)).float().mean() > 0.7  # chance is 0.02


@pytest.mark.parametrize("group", ["shape", "color", "size"])
def test_clip_prefers_the_right_word_to_the_others_of_its_group(clip, group):
    rng, right = random.Random(SEED), []
    for scene in (parts.captioned_shapes(rng) for _ in range(50)):
        words = scene.caption.split()
        at = next(i for i, word in enumerate(words) if word in parts.WORD_GROUPS[group])
        captions = [" ".join([*words[:at], other, *words[at + 1 :]]) for other in parts.WORD_GROUPS[group]]
        best = clip_similarity(clip, [Image.fromarray(scene.image)], captions).argmax().item()
        right.append(captions[best] == scene.caption)
    assert np.mean(right) > 0.8


def test_clip_reads_color_and_kind_of_clutter(clip):
    rng = random.Random(SEED)
    scenes = [parts.captioned_clutter(rng, said=True) for _ in range(100)]
    captions = {s.caption_meaning: s.caption for s in scenes}
    best = clip_similarity(clip, [Image.fromarray(s.image) for s in scenes], list(captions.values())).argmax(1)
    found = [list(captions)[b] for b in best]
    right = np.mean([[f[i] == s.caption_meaning[i] for i in (0, 1)] for f, s in zip(found, scenes, strict=True)], 0)
    assert right[0] > 2 / len(SHAPES)
    assert right[1] > 4 / len(COLORS)


def test_a_caption_without_a_color_fits_every_color_of_its_kind():
    rng = random.Random(SEED)
    scenes = [parts.captioned_clutter(rng) for _ in range(60)] + [parts.captioned_shapes(rng)]
    fits = fitting([s.image_meanings for s in scenes], [s.caption_meaning for s in scenes])
    assert fits.diagonal().all()
    for i, (_, (kind, color)) in enumerate(s.image_meanings for s in scenes[:-1]):
        wanted = [s.caption_meaning in ((kind,), (kind, color)) for s in scenes]
        assert fits[i].bool().tolist() == wanted
    assert fits[-1].sum() == 1


def test_contents_of_copy_views_tell_whole_copies_from_mixed_ones():
    images = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(SEED))
    views, contents = networks.copy_views(images, torch.Generator().manual_seed(SEED))
    assert views.shape == (32, 3, networks.INPUT, networks.INPUT)
    assert torch.allclose(contents.sum(1), torch.ones(32))
    assert (contents.max(1).values == 1).any() and (contents.max(1).values < 0.9).any()


def test_training_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "SAVE_EVERY", 1)
    monkeypatch.setattr(train_evaluators, "NUM_COPY_SCENES", 16)
    monkeypatch.setattr(train_evaluators, "BATCH", 8)

    def train(folder):
        folder.mkdir(exist_ok=True)
        settings = train_evaluators.TrainingSettings(folder, seed=1, copy_steps=2)
        return train_evaluators.train_copy_descriptor(settings).state_dict()

    whole, loss = train(tmp_path / "whole"), train_evaluators.copy_loss

    def cut_off(*inputs):
        if (tmp_path / "cut" / "copy.pt").exists():
            raise KeyboardInterrupt
        return loss(*inputs)

    monkeypatch.setattr(train_evaluators, "copy_loss", cut_off)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.setattr(train_evaluators, "copy_loss", loss)
    resumed = train(tmp_path / "cut")
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)
