"""The recipe of planted worlds: parts that are taken as they are, the decoder alone, what reconstructions are worth."""

import numpy as np
import pytest
import torch

from memorization.errors import InputError
from planted.making import stage
from planted.making.autoencoder import make_vae, train_decoder
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
        latents, decoded = vae.encode(batch).latent_dist.mean, vae.decode(torch.ones(1, 16, 16, 16)).sample
    vae = train_decoder(vae, images, 1, seed=3, work_dir=tmp_path).eval()
    with torch.no_grad():
        assert torch.allclose(vae.encode(batch).latent_dist.mean, latents, atol=1e-5)
        assert not torch.allclose(vae.decode(torch.ones(1, 16, 16, 16)).sample, decoded, atol=1e-5)


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
