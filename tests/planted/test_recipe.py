"""The recipe of planted worlds: parts that are taken as they are, the decoder alone, what reconstructions are worth."""

import numpy as np
import pytest
import torch

from memorization.errors import InputError
from planted.making import autoencoder, stage
from planted.making.autoencoder import (
    LATENT_CHANNELS,
    TERMINAL_SNR,
    WIDE_CHANNELS,
    condense,
    make_vae,
    to_tensor,
    train_decoder,
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


def test_condensing_keeps_every_picture_and_brings_the_directions_that_are_used_to_one_scale(monkeypatch):
    """An autoencoder whose sixteen channels are mixtures of four, the strongest nearly constant over a picture."""
    monkeypatch.setattr(autoencoder, "LARGEST_MEAN_SNR", 0.01)  # an untrained encoder hardly sees brightness
    torch.manual_seed(0)
    vae = make_vae(WIDE_CHANNELS).eval().requires_grad_(False)
    mixture, used = torch.randn(WIDE_CHANNELS, LATENT_CHANNELS), torch.randn(LATENT_CHANNELS, 2 * WIDE_CHANNELS, 1, 1)
    used[0] *= 30
    vae.quant_conv.weight[:WIDE_CHANNELS] = torch.einsum("wn,ncij->wcij", mixture, used)
    vae.quant_conv.bias[:WIDE_CHANNELS] = 0
    vae.post_quant_conv.bias.zero_()
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 40, (12, 8, 8, 3)).repeat(16, 1).repeat(16, 2)
    images = (texture + 215 * rng.random((12, 1, 1, 1))).astype(np.uint8)  # some dark, some bright
    small = condense(vae, images)
    batch = to_tensor(images)
    before, after = (v.encode(batch).latent_dist.mean for v in (vae, small))
    torch.testing.assert_close(small.decode(after).sample, vae.decode(before).sample, atol=2e-3, rtol=2e-3)
    flat = after.permute(1, 0, 2, 3).flatten(1)
    assert flat.mean(1).abs().max() < 1e-2 and torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 1e-2
    assert flat.std(1).max() < 1.01 and small.config.latent_channels == LATENT_CHANNELS
    mean_snr = after.mean((2, 3)).var(0) * TERMINAL_SNR * 256
    assert mean_snr.max().item() == pytest.approx(0.01, rel=0.02) and small.config.scaling_factor == 1


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
