"""Copy descriptors and perceptual distance: preprocessing, nearest references, what is said when they are missing."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.eval_runs import quarters, write_descriptor
from memorization.bundled import CLIP, PLANTED
from memorization.similarity.descriptors import ClipSimilarity, CopyDescriptor, PerceptualDistance
from memorization.similarity.pixels import copy_similarity, seed_diversity
from memorization.similarity.preprocessing import sscd_transform


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


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("nowhere/clip", "x", "--reference_model nowhere/clip does not exist"),
        ("local-dir:nowhere", None, "--reference_model nowhere does not exist"),
        ("./clip.pt", "x", "does not exist; give the name of an open_clip model"),
        (str(PLANTED / "planted_prompts.jsonl"), "x", "is a file; give the name"),
        ("ViT-B-32", "nowhere/weights", "--reference_model_pretrain nowhere/weights does not exist"),
        ("ViT-B-32", "weights.pt", "--reference_model_pretrain weights.pt does not exist"),
    ],
)
def test_a_clip_model_by_a_path_that_is_not_there_is_named(model, pretrained, message):
    with pytest.raises(ValueError, match=message):
        ClipSimilarity(model, pretrained, "cpu")


def test_a_descriptor_says_its_content(tmp_path):
    path = write_descriptor(tmp_path)
    before = CopyDescriptor(path).description
    assert CopyDescriptor(path).description == before and "sha256 " in before
    torch.jit.save(torch.jit.load(str(path)), str(path), _extra_files={"note": "of another training"})
    assert CopyDescriptor(path).description != before


class Odd(torch.nn.Module):
    """A network that does not give a matrix of numbers for a batch of pictures."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind

    def forward(self, x: torch.Tensor) -> Any:
        features = x.flatten(2).mean(2)
        result: Any = features / 0 * 0
        if self.kind == "tuple":
            result = (features, features)
        elif self.kind == "dict":
            result = {"embedding": features}
        elif self.kind == "map":
            result = x
        elif self.kind == "one":
            result = features[:1]
        elif self.kind == "whole":
            result = features.long()
        return result


class FixedSize(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(len(x), 3 * 224 * 224)


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("tuple", "gives a tuple, not a tensor"),
        ("dict", "gives a dict, not a tensor"),
        ("map", r"gives float32 of shape \(3, 3, 224, 224\) for 3 pictures"),
        ("one", r"gives float32 of shape \(1, 3\) for 3 pictures"),
        ("whole", "gives int64 of shape"),
        ("nan", "gives NaN"),
    ],
)
def test_a_descriptor_that_gives_something_else_is_refused_when_it_is_opened(tmp_path, kind, told):
    torch.jit.script(Odd(kind)).save(str(tmp_path / "odd.pt"))
    with pytest.raises(ValueError, match=f"odd.pt {told}") as refusal:
        CopyDescriptor(tmp_path / "odd.pt")
    assert "\n" not in str(refusal.value)


def test_a_descriptor_that_takes_one_size_names_the_size(tmp_path):
    torch.jit.script(FixedSize()).save(str(tmp_path / "fixed.pt"))
    assert CopyDescriptor(tmp_path / "fixed.pt", "wen").model is not None
    with pytest.raises(ValueError, match="fixed.pt fails on pictures of shape .*288"):
        CopyDescriptor(tmp_path / "fixed.pt", "official_288")


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x80\x02}q\x00."])
def test_files_that_are_no_torchscript(tmp_path, content):
    (tmp_path / "sscd.pt").write_bytes(content)
    with pytest.raises(ValueError, match="sscd.pt is not a TorchScript file"):
        CopyDescriptor(tmp_path / "sscd.pt")


def test_clip_and_lpips_are_tried_out_too(monkeypatch):
    monkeypatch.setattr(ClipSimilarity, "__call__", lambda *args: [float("nan")])
    with pytest.raises(ValueError, match="planted_clip gives NaN for a picture"):
        ClipSimilarity(str(CLIP), None, "cpu")
    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=lambda **how: torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="LPIPS fails on a picture"):
        PerceptualDistance()
