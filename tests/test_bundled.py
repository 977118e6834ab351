"""The bundled files are found by name, by today's folder and by the one where they lay, from any folder."""

from pathlib import Path

import pytest

from memorization.bundled import MODEL, PLANTED, bundled_name, find_bundled, same_setting
from memorization.similarity.descriptors import CopyDescriptor


@pytest.mark.parametrize("name", ["planted_sd", "planted/planted_sd", "examples/planted_sd", str(MODEL)])
def test_a_bundled_file_is_found_and_named_alike(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_bundled(name) == MODEL and bundled_name(find_bundled(name)) == "planted_sd"
    assert same_setting(str(MODEL), "/elsewhere/examples/planted_sd") and not same_setting(str(MODEL), "planted_sd_2")


def test_a_file_of_the_users_comes_first_and_others_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planted_sd").mkdir()
    assert find_bundled("planted_sd") == Path("planted_sd")
    assert find_bundled("CompVis/stable-diffusion-v1-4") == Path("CompVis/stable-diffusion-v1-4")
    assert bundled_name("my/model") == "my/model" and bundled_name(None) is None and bundled_name(7.5) == 7.5


def test_evaluators_are_found_where_they_lay():
    descriptor = CopyDescriptor("examples/planted_evaluators/copy_descriptor.torchscript.pt")
    assert descriptor.description.startswith("copy_descriptor.torchscript.pt")
    assert (PLANTED / "planted_evaluators").is_dir()
