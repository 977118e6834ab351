"""What an index of a large set takes: the arithmetic, and a small measurement."""

import numpy as np
import pytest

from experiments import index_scale

MEASURED = {"pictures": 1000, "described_per_second": 10.0, "bytes": 1_024_000, "search_seconds": 3.0}


def test_estimates_are_in_proportion_and_describing_is_shared_out():
    found = index_scale.estimate(MEASURED, 7_200_000, 4)
    assert found == pytest.approx({"hours": 50, "gigabytes": 7.3728, "minutes": 360})
    assert index_scale.estimate(MEASURED, 7_200_000, 8)["minutes"] == pytest.approx(360)


def test_a_small_index_is_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(index_scale, "SHARD_SIZE", 300)
    index = index_scale.make_index(tmp_path, 1000)
    np.testing.assert_allclose(np.linalg.norm(index.descriptors(range(1000)), axis=1), 1, atol=1e-3)
    found = index_scale.measure_search(index)
    assert found["found"] == 1 and found["search_seconds"] > 0
    queries, rows = index_scale.made_queries(index)
    exact = index_scale.brute_force(index, queries)
    assert (exact[:, 0] == rows).all()
    assert index_scale.equal_share(np.load(tmp_path / index_scale.FOUND), exact) == 1


@pytest.mark.slow
def test_a_million_descriptors_are_searched_in_less_than_a_gigabyte(tmp_path, monkeypatch):
    monkeypatch.setattr(index_scale, "RESULTS", tmp_path / "scale.json")
    found = index_scale.measure(1_000_000, with_faiss=False)
    assert found["peak_bytes"] < 2**30 and found["found"] == found["equal_to_brute_force"] == 1
