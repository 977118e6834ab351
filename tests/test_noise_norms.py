"""Scores against direct computation, their identities, and that no row depends on another."""

import pytest
import torch

from attn_utils import bright_ending_mask, shuffle_mask
from noise_norms import leading_mean, noise_diff_map, noise_diff_norm, norms_from_maps

STEPS, IMAGES = 5, 3


@pytest.fixture
def diffs():
    return torch.randn(STEPS, IMAGES, 4, 8, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def mask():
    return torch.rand(IMAGES, 1, 8, 6, generator=torch.Generator().manual_seed(1))


def test_one_pass_equals_equation_8(diffs, mask):
    maps = torch.stack([noise_diff_map(d) for d in diffs], 1)
    local = norms_from_maps(maps, mask)
    for image in range(IMAGES):
        for step in range(STEPS):
            expected = (diffs[step, image] * mask[image]).norm() / mask[image].mean()
            torch.testing.assert_close(local[image, step], expected)
            torch.testing.assert_close(norms_from_maps(maps)[image, step], diffs[step, image].norm())


def test_identities(diffs, mask):
    full = noise_diff_norm(diffs[0])
    torch.testing.assert_close(noise_diff_norm(diffs[0], torch.ones_like(mask)), full)
    torch.testing.assert_close(noise_diff_norm(diffs[0], 7 * mask), noise_diff_norm(diffs[0], mask))
    assert noise_diff_norm(diffs[0].half()).dtype == torch.float32
    flat = torch.ones(IMAGES, 1, 8, 6)
    spread = mask.flatten(1).std(1, correction=0) / mask.flatten(1).mean(1)
    ratio = norms_from_maps(flat, mask) / norms_from_maps(flat)
    torch.testing.assert_close(ratio[:, 0], (1 + spread**2).sqrt())
    torch.testing.assert_close(norms_from_maps(flat, mask, "rms"), norms_from_maps(flat))
    with pytest.raises(ValueError, match="normalize"):
        norms_from_maps(flat, mask, "max")


def test_rows_are_independent(diffs, mask):
    maps = torch.stack([noise_diff_map(d) for d in diffs], 1)
    for normalize in ("mean", "rms"):
        alone = norms_from_maps(maps[1:2], mask[1:2], normalize)
        assert torch.equal(alone, norms_from_maps(maps, mask, normalize)[1:2])
    seeds = [4, 5, 6]
    assert torch.equal(shuffle_mask(mask[1:2], seeds[1:2]), shuffle_mask(mask, seeds)[1:2])


def test_shuffling_moves_values_without_changing_them(mask):
    shuffled = shuffle_mask(mask, [1, 2, 3])
    assert not torch.equal(shuffled, mask)
    assert torch.equal(shuffled.flatten(1).sort(1)[0], mask.flatten(1).sort(1)[0])


def test_masks_of_other_sizes(mask):
    maps = torch.rand(IMAGES, 2, 16, 12)
    repeated = mask.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(norms_from_maps(maps, mask), norms_from_maps(maps, repeated))
    with pytest.raises(ValueError, match="does not fit"):
        norms_from_maps(torch.rand(IMAGES, 2, 9, 9), mask)


def test_leading_mean_and_bright_ending_mask():
    norms = torch.tensor([[1.0, 3.0, 8.0]])
    assert [leading_mean(norms, t).item() for t in (1, 2, None)] == [1, 2, 4]
    layers = [torch.zeros(2, 6), torch.arange(12.0).view(2, 6)]
    assert torch.equal(bright_ending_mask(layers, (2, 3)), torch.arange(12.0).view(2, 1, 2, 3) / 2)
