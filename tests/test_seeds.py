"""Seeds of images, and of what else is drawn for them."""

import hashlib

import torch

from memorization.seeds import derived_seed, image_seed


def test_image_seeds_stay_apart_and_within_what_torch_takes():
    highest = image_seed(2**32 - 1, 99_999, 999)
    assert highest < 2**63
    assert image_seed(0, 0, 999) + 1 == image_seed(0, 1, 0)


def test_a_derived_seed_is_another_one_that_torch_reads_whole():
    """By hand: the first four bytes of the SHA-256 of "probes:7"."""
    assert derived_seed(7, "probes") == int(hashlib.sha256(b"probes:7").hexdigest()[:8], 16)
    seeds = [image_seed(g, i, k) for g in (0, 43, 99) for i in (0, 1, 4_000_000) for k in (0, 1)]
    derived = [derived_seed(s, purpose) for s in seeds for purpose in ("probes", "noise")]
    assert len(set(derived)) == len(derived) and not set(derived) & set(seeds) and max(derived) < 2**32


def test_a_derived_seed_draws_other_numbers_than_the_starting_noise():
    own, other = (torch.randn(1000, generator=torch.Generator().manual_seed(s)) for s in (5, derived_seed(5, "noise")))
    assert abs(torch.corrcoef(torch.stack([own, other]))[0, 1]) < 0.15
