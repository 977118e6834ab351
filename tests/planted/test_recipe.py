"""The recipe of planted worlds: parts that are taken as they are, the decoder alone, what reconstructions are worth."""

import numpy as np
import pytest
import torch

from memorization.errors import InputError
from planted.making import autoencoder, stage
from planted.making.autoencoder import (
    LATENT_CHANNELS,
    TERMINAL_SNR,
    latent_penalty,
    make_vae,
    recolor,
    to_tensor,
    train_decoder,
    whiten,
)
from planted.making.check_autoencoder import compare
from planted.making.train import take_finished


def test_finished_parts_are_taken_but_never_over_what_is_there(tmp_path):
    for folder, text in (("model/vae", "new"), ("model/text_encoder", "new"), ("work/vae", "old")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "config.json").write_text(text)
    take_finished(tmp_path / "model", tmp_path / "work")
    assert (tmp_path / "work" / "vae" / "config.json").read_text() == "old"
    assert (tmp_path / "work" / "text_encoder" / "config.json").read_text() == "new"
    with pytest.raises(InputError, match="name a model"):
        take_finished(tmp_path / "nowhere", tmp_path / "work")


def test_training_the_decoder_on_changes_pictures_and_keeps_latents(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "SAVE_EVERY", 1)
    torch.manual_seed(0)
    vae = make_vae().eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)
    batch = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        latents, decoded = vae.encode(batch).latent_dist.mean, vae.decode(torch.ones(1, LATENT_CHANNELS, 16, 16)).sample
    vae = train_decoder(vae, images, 1, seed=3, work_dir=tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(vae.encode(batch).latent_dist.mean, latents, atol=1e-5)
        assert not torch.allclose(vae.decode(torch.ones(1, LATENT_CHANNELS, 16, 16)).sample, decoded, atol=1e-5)


def test_whitening_keeps_every_picture_and_brings_the_latents_to_one_scale(monkeypatch):
    """An autoencoder whose channels are mixtures, the strongest nearly constant over a picture."""
    monkeypatch.setattr(autoencoder, "LARGEST_MEAN_SNR", 0.01)  # an untrained encoder hardly sees brightness
    torch.manual_seed(0)
    vae = make_vae().eval().requires_grad_(False)
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 40, (12, 8, 8, 3)).repeat(16, 1).repeat(16, 2)
    images = (texture + 215 * rng.random((12, 1, 1, 1))).astype(np.uint8)  # some dark, some bright
    batch = to_tensor(images)
    before = vae.decode(vae.encode(batch).latent_dist.mean).sample
    vae = whiten(vae, images)
    posterior = vae.encode(batch).latent_dist
    torch.testing.assert_close(vae.decode(posterior.mean).sample, before, atol=2e-3, rtol=2e-3)
    flat = posterior.mean.permute(1, 0, 2, 3).flatten(1)
    assert flat.mean(1).abs().max() < 1e-2 and torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 1e-2
    assert flat.std(1).max() < 1.01 and vae.config.scaling_factor == 1
    mean_snr = posterior.mean.mean((2, 3)).var(0) * TERMINAL_SNR * 256
    assert mean_snr.max().item() == pytest.approx(0.01, rel=0.02)
    assert posterior.std.std((0, 2, 3)).max() < 1e-6  # one for all pictures and places


def test_colors_are_held_to_their_places_and_details_to_be_small():
    images = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0)) * 2 - 1
    held = torch.zeros(2, LATENT_CHANNELS, 16, 16)
    held[:, :3] = images.unfold(2, 8, 8).unfold(3, 8, 8).mean((4, 5))
    assert latent_penalty(held, images).item() == pytest.approx(0, abs=1e-10)
    even, uneven = held.clone(), held.clone()
    even[:, 3] = 1
    uneven[:, 3] = torch.tensor([1.0, -1]).repeat(8)
    assert latent_penalty(even, images) > 5 * latent_penalty(uneven, images) > 0
    assert latent_penalty(held.roll(1, 1), images) > 0.005


def test_some_pictures_are_recolored_within_bounds_and_keep_their_outlines():
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(200, 3, 4, 4, generator=generator) > 0.5) * 2.0 - 1
    changed = recolor(images, generator)
    touched = (changed != images).flatten(1).any(1)
    assert 0.15 < touched.float().mean() < 0.35 and changed.abs().max() <= 1
    one = touched.nonzero()[0, 0]
    assert [changed[one, k].unique().numel() for k in range(3)] == [2, 2, 2]


def test_a_perfect_copy_is_nearest_to_its_original_and_a_swapped_one_is_not():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)

    def descriptor(pictures):
        return torch.nn.functional.normalize(torch.tensor(np.stack(pictures)).flatten(1).float() - 127.5, dim=1)

    rows = compare(descriptor, images, images)
    assert rows["the original is the nearest"]["value"] == 1
    assert rows["similarity to the original"]["value"] == pytest.approx(1)
    assert rows["root mean squared error in [0, 1]"]["value"] == 0
    swapped = compare(descriptor, images, images[::-1])
    assert swapped["the original is the nearest"]["count"] == 0
