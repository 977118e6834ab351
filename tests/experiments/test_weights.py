"""The table of published models' weights: counts that their authors or diffusers give."""

import pytest

from experiments.cost.weights import PARTS, PUBLISHED, num_weights

BILLIONS = {"SD 1": 0.860, "SD 2": 0.866, "SDXL": 2.567, "SD 3": 2.028, "SD 3.5 large": 8.057, "Flux dev": 11.901}
BILLIONS |= {"T5-XXL": 4.762, "CLIP-G": 0.695, "CLIP-L": 0.123, "VAE": 0.084}


@pytest.mark.parametrize("part", BILLIONS)
def test_parts_have_the_published_numbers_of_weights(part):
    assert num_weights(part) / 1e9 == pytest.approx(BILLIONS[part], abs=5e-4)


def test_every_model_is_made_of_known_parts():
    assert all({m.denoiser, m.vae, *m.text_encoders} <= PARTS.keys() for m in PUBLISHED)
