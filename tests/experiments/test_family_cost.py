"""What each family costs: stock diffusers and detection make the same images, at the evaluations that are told."""

import json

import pytest

from experiments.cost import families
from experiments.planted_tables import NOT_MEASURED


def test_every_family_is_measured_against_stock_diffusers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(families, "RESULTS", tmp_path / "families.json")
    assert families.kept_results() == NOT_MEASURED
    size = ["--num_images", "2", "--batch_size", "2", "--num_inference_steps", "2", "--repeats", "1"]
    families.main([*size, "--output", str(tmp_path / "families.json")])
    found = json.loads((tmp_path / "families.json").read_text())
    assert found.keys() == families.tiny_models().keys()
    for name, result in found.items():
        stock, detection = result["rows"]
        assert result["largest_pixel_difference"] <= 1, name  # stock diffusers decodes a batch at once
        assert stock["evals"] == stock["least_evals"] == (2 if "Flux" in name else 4)
        assert detection["evals"] == detection["least_evals"] == 4 and detection["ratios"] == [
            pytest.approx(detection["seconds"] / stock["seconds"])
        ]
    text = families.kept_results()
    assert text in capsys.readouterr().out and all(f"| {name} " in text for name in families.tiny_models())
