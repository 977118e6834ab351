"""CMMD, saturation, contrast and spectrum by hand; FID and KID where the package is missing and where it is there."""

import sys
from math import exp
from types import ModuleType

import numpy as np
import pytest
import torch

from memorization.errors import InputError
from memorization.similarity.appearance import Ordinary, look_at, pictures_of_folder, rare_limit
from memorization.similarity.cmmd import (
    FeatureSet,
    cmmd,
    cmmd_released,
    jackknife_interval,
    kernel_sums,
    leave_one_out,
)
from memorization.similarity.inception import InceptionDistances
from memorization.similarity.quality import contrast, log_spectrum, saturated_share, spectrum_distance


def features(seed, prompts, per_prompt=2, shift=0.0, dim=8):
    """Unit features that share a part within each prompt, and the prompts' names."""
    rng = np.random.default_rng(seed)
    values = (
        rng.normal(size=(prompts, 1, dim)) / 2 + rng.normal(size=(prompts, per_prompt, dim)) / 2 + np.eye(dim)[0] * 2
    )
    values = (values + shift * np.eye(dim)[1]).reshape(-1, dim).astype(np.float32)
    names = [f"{seed}.{k}" for k in range(prompts) for _ in range(per_prompt)]
    return FeatureSet(values / np.linalg.norm(values, axis=1, keepdims=True), names)


def by_loops(x, y, leave_out):
    """1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), pair by pair; `leave_out` says of two places and sets."""

    def mean(a, b):
        found = []
        for i in range(len(a.prompts)):
            for j in range(len(b.prompts)):
                if not leave_out(a, i, b, j):
                    squared = sum((float(p) - float(q)) ** 2 for p, q in zip(a.features[i], b.features[j], strict=True))
                    found.append(exp(-squared / (2 * 10**2)))
        return sum(found) / len(found)

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_cmmd_is_that_of_a_double_loop():
    x, y = features(0, 4), features(1, 5, 3, shift=0.4)
    sums = kernel_sums(x, y)
    assert cmmd_released(sums) == pytest.approx(by_loops(x, y, lambda *_: False), abs=1e-8)
    assert cmmd(sums) == pytest.approx(by_loops(x, y, lambda a, i, b, j: a.prompts[i] == b.prompts[j]), abs=1e-8)
    single, others = features(2, 5, 1), features(3, 6, 1)  # one image a prompt: the paper's equation
    expected = by_loops(single, others, lambda a, i, b, j: a is b and i == j)
    assert cmmd(kernel_sums(single, others)) == pytest.approx(expected, abs=1e-8)
    kept = [k for k, prompt in enumerate(x.prompts) if prompt != "0.2"]
    fewer = FeatureSet(x.features[kept], [x.prompts[k] for k in kept])
    assert leave_one_out(sums)[2] == pytest.approx(cmmd(kernel_sums(fewer, y)), abs=1e-8)


def test_cmmd_is_unbiased_and_the_released_rule_is_not():
    ours, released = zip(
        *((cmmd(s), cmmd_released(s)) for s in (kernel_sums(features(k, 6), features(900 + k, 6)) for k in range(300))),
        strict=True,
    )
    error = np.std(ours) / len(ours) ** 0.5
    assert abs(np.mean(ours)) < 4 * error < 0.2 and np.mean(released) > 0.5
    shifted = [cmmd(kernel_sums(features(k, 6, shift=1.0), features(900 + k, 6))) for k in range(20)]
    assert np.mean(shifted) > 0.5


def test_a_run_of_the_same_prompts_is_compared_without_their_own_images():
    """An image that did not change is no evidence of likeness: a set against itself is 0, not below."""
    x = features(0, 5)
    assert cmmd(kernel_sums(x, x)) == pytest.approx(0, abs=1e-9)
    half = FeatureSet(np.concatenate([x.features[:6], features(9, 2).features]), x.prompts)
    expected = by_loops(half, x, lambda a, i, b, j: a.prompts[i] == b.prompts[j])
    assert cmmd(kernel_sums(half, x)) == pytest.approx(expected, abs=1e-8)


def test_the_interval_of_cmmd_covers_what_it_should():
    """At equal sets (a degenerate U-statistic) and at unequal ones, 12 prompts against 30."""
    big = kernel_sums(features(5000, 800, 1, shift=1.0), features(5001, 800, 1))
    for shift, truth in ((0.0, 0.0), (1.0, cmmd(big))):
        hits = []
        for k in range(80):
            sums = kernel_sums(features(k, 12, shift=shift), features(1000 + k, 30))
            low, high = jackknife_interval(cmmd(sums), leave_one_out(sums), sums)
            hits.append(low <= truth <= high)
        assert np.mean(hits) >= 0.9
    two = kernel_sums(features(0, 2), features(1, 5))
    assert np.isnan(jackknife_interval(cmmd(two), leave_one_out(two), two)).all()
    assert np.isnan(cmmd(kernel_sums(features(0, 1), features(1, 5))))


def test_features_of_another_model_or_without_numbers_are_refused():
    with pytest.raises(InputError, match="not of 8 and 4"):
        kernel_sums(features(0, 3), features(1, 3, dim=4))
    broken = features(1, 3)
    broken.features[0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        kernel_sums(features(0, 3), broken)


def test_saturation_and_contrast_by_hand():
    image = np.full((1, 4, 4, 3), 128, np.uint8)
    image[0, 0] = [0, 1, 2]  # two of three values within a level of 0, in a quarter of the image
    image[0, 1] = [255, 254, 253]
    assert saturated_share(image).tolist() == pytest.approx([2 / 3 * 2 / 4])
    halves = np.zeros((2, 4, 4, 3), np.uint8)
    halves[0, :2], halves[1] = 255, 77
    assert contrast(halves).tolist() == pytest.approx([0.5, 0], abs=1e-6)
    green = np.zeros((1, 2, 2, 3), np.uint8)
    green[0, 0, :, 1] = 255
    assert contrast(green)[0] == pytest.approx(0.587 / 2, abs=1e-6)
    assert (
        saturated_share(image).dtype == contrast(image).dtype == log_spectrum(np.repeat(image, 4, 1).repeat(4, 2)).dtype
    )


def test_the_spectrum_is_that_of_white_noise_and_of_a_wave():
    rng = np.random.default_rng(0)
    for size in ((64, 64), (96, 48)):
        noise = rng.normal(128, 20, (60, *size)).round().clip(0, 255).astype(np.uint8)
        spectrum = log_spectrum(np.repeat(noise[..., None], 3, 3)).mean(0)
        # The mean logarithm of an exponential variable is Euler's constant below that of its mean: 2.51 dB.
        assert spectrum == pytest.approx([10 * np.log10((20 / 255) ** 2) - 2.51] * 8, abs=0.8)
    wave = 128 + 100 * np.sin(2 * np.pi * 0.34 * np.arange(64))  # cycles per pixel: the sixth ring, 5/16 to 6/16
    line = np.broadcast_to(wave[:, None], (64, 64)).round().astype(np.uint8)
    found = log_spectrum(np.repeat(line[None, ..., None], 3, 3))[0]
    assert found.argmax() == 5 and found[5] > max(found[4], found[6]) + 3
    flat = log_spectrum(np.full((1, 32, 32, 3), 90, np.uint8))
    assert flat == pytest.approx(np.full((1, 8), -58.92), abs=0.01)  # a flat image has rounding's power, not none
    assert spectrum_distance(flat + [3, -3] * 4, flat[0]).tolist() == pytest.approx([3])
    with pytest.raises(ValueError, match="8 x 8 pixels are too small"):
        log_spectrum(np.zeros((1, 8, 8, 3), np.uint8))


def test_a_limit_is_exceeded_as_rarely_as_it_says():
    assert rare_limit(np.arange(1, 100.0)) == 99 and rare_limit(np.arange(1, 200.0)) == 198
    rng = np.random.default_rng(0)
    exceeded = [v[-1] > rare_limit(v[:-1]) for v in rng.normal(size=(4000, 200))]
    assert 0.004 < np.mean(exceeded) < 0.016


def test_blown_out_flat_and_noisy_pictures_are_unlike_ordinary_ones(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)

    def smooth(count):
        coarse = rng.integers(60, 200, (count, 4, 4, 3), dtype=np.uint8)
        return np.stack([np.asarray(Image.fromarray(c).resize((32, 32), Image.Resampling.BICUBIC)) for c in coarse])

    for k, picture in enumerate(smooth(60)):
        Image.fromarray(picture).resize((40, 32)).save(tmp_path / f"{k}.webp", lossless=True)
    (tmp_path / "._0.png").write_bytes(b"not a picture")
    (tmp_path / "notes.txt").write_text("")
    look = look_at(pictures_of_folder(tmp_path, (32, 32)), None)
    ordinary = Ordinary(look)
    assert len(look.prompts) == len(set(look.prompts)) == 60 and look.features is None
    blown = np.where(smooth(8) > 128, 255, 0).astype(np.uint8)
    noise, flat = rng.integers(100, 156, (8, 32, 32, 3), dtype=np.uint8), np.full((8, 32, 32, 3), 120, np.uint8)
    found = {}
    for name, images in {"more": smooth(40), "blown": blown, "noise": noise, "flat": flat}.items():
        for k, image in enumerate(images):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(image).save(tmp_path / name / f"{k}.png")
        found[name] = ordinary.numbers_of(look_at(pictures_of_folder(tmp_path / name, (32, 32)), None))
    assert found["more"]["outside"].mean() < 0.2
    assert all(found[name]["outside"].all() for name in ("blown", "noise", "flat"))
    assert found["blown"]["saturated"].min() == 1 and found["flat"]["contrast"].max() < 1e-6
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="holds no pictures"):
        pictures_of_folder(empty, (32, 32))


class Distance:
    """As torchmetrics' metrics are used: counts what it was shown of either kind."""

    def __init__(self, feature=2048, reset_real_features=True, subsets=100):
        self.inception, self.subset_size, self.seen = feature, 1000, {True: 0, False: 0}
        self.keeps_real = not reset_real_features

    def to(self, device):
        return self

    def update(self, batch, real):
        assert batch.dtype == torch.uint8 and batch.shape[1] == 3 and len(batch) <= 32
        self.seen[real] += len(batch)

    def reset(self):
        self.seen = {True: self.seen[True] if self.keeps_real else 0, False: 0}

    def compute(self):
        return torch.tensor(float(self.seen[False] + self.seen[True] / 1000))


class KernelDistance(Distance):
    def compute(self):
        return torch.tensor(float(self.subset_size)), torch.tensor(0.0)


def test_fid_and_kid_come_from_torchmetrics(monkeypatch):
    for name in ("torchmetrics", "torchmetrics.image", "torchmetrics.image.fid", "torchmetrics.image.kid"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["torchmetrics.image.fid"].FrechetInceptionDistance = Distance
    sys.modules["torchmetrics.image.kid"].KernelInceptionDistance = KernelDistance
    pictures = np.zeros((40, 16, 16, 3), np.uint8)
    found = InceptionDistances()({"a": [pictures], "b": [pictures[:2]] * 3, "c": [pictures[:1]]}, [pictures[:9]] * 7)
    assert found["a"] == {"fid": pytest.approx(40.063), "kid": 40}
    assert found["b"] == {"fid": pytest.approx(6.063), "kid": 6}  # of 6 images, the first set forgotten
    assert np.isnan(found["c"]["fid"]) and np.isnan(found["c"]["kid"])


def test_fid_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(ValueError, match=r"no FID and KID: .*; pip install \"memorization\[quality\]\"") as error:
        InceptionDistances()
    assert "\n" not in str(error.value)
