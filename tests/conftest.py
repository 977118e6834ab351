"""Tiny pipelines for all tests."""

import pytest

from helpers.pipelines import make_pipeline
from memorization.models.stable_diffusion import load_pipeline


@pytest.fixture(scope="session", autouse=True)
def cache_of_contents(tmp_path_factory):
    """Hashes of files are kept with the tests, not with the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMORIZATION_CACHE", str(tmp_path_factory.mktemp("contents")))
        yield


@pytest.fixture(scope="session", params=["epsilon", "v_prediction"])
def any_pipe(request):
    return make_pipeline(request.param)


@pytest.fixture(scope="session")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="session")
def model_folder(pipe, tmp_path_factory):
    """The tiny pipeline saved to disk, for tests that go through the scripts."""
    folder = tmp_path_factory.mktemp("tiny_sd")
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def loaded(model_folder):
    """That folder loaded once, for scripts that are given a pipeline; its counter goes on."""
    return load_pipeline(model_folder)
