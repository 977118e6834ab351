"""An index of a training set: exact search, chunks, near-duplicates, against plain computations."""

import importlib.util
import itertools
import json

import numpy as np
import pytest
import torch

from memorization.errors import InputError
from memorization.similarity.index import approximate, stored
from memorization.similarity.index.entries import Entry
from memorization.similarity.index.groups import similar_groups
from memorization.similarity.index.search import most_similar, to_nearest_other
from memorization.similarity.index.split import dot, similarity_called, split, split_cross

DIM = 12


def unit(rng, count, dim=DIM):
    values = rng.normal(size=(count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def make_index(folder, descriptors, shard_size):
    """An index of given descriptors, its pictures called after their rows."""
    settings = {"descriptor": "d", "checkpoint": "c", "preprocessing": "p", "dataset": "s", "shard_size": shard_size}
    count, dim = descriptors.shape
    header = {"settings": settings, "opened_by": {}, "pictures": count, "dim": dim, "unreadable": 0}
    index = stored.write_header(folder, header)
    for shard, start in enumerate(range(0, count, shard_size)):
        index.save(shard, descriptors[start : start + shard_size])
        rows = range(start, min(start + shard_size, count))
        lines = [json.dumps(Entry(row, f"caption {row}", folder / f"{row}.png").fields()) + "\n" for row in rows]
        index.entries_file(shard).write_text("".join(lines))
    return index


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """An index of 50 pictures in shards and blocks that divide nothing, one without a descriptor, and queries."""
    monkeypatch.setattr(stored, "BLOCK", 4)
    monkeypatch.setattr("memorization.similarity.index.search.QUERIES", 3)
    rng = np.random.default_rng(0)
    descriptors = unit(rng, 50)
    descriptors[17] = np.nan
    return make_index(tmp_path, descriptors, 7), descriptors.astype(np.float16).astype(np.float32), unit(rng, 8)


@pytest.mark.parametrize(("kind", "chunks"), [("dot", 1), ("splitloss", 3), ("splitlosscross", 3)])
def test_the_most_similar_are_those_of_one_whole_matrix(searched, kind, chunks):
    index, descriptors, queries = searched
    similarity = similarity_called(kind, chunks, DIM)
    whole = similarity(torch.from_numpy(queries), torch.from_numpy(np.nan_to_num(descriptors))).numpy()
    whole[:, 17] = -np.inf
    values, rows = most_similar(index, queries, 5, similarity)
    np.testing.assert_array_equal(rows, np.argsort(-whole, 1)[:, :5])
    np.testing.assert_allclose(values, np.sort(whole, 1)[:, ::-1][:, :5], atol=1e-6)


def test_every_picture_is_ranked_when_all_are_asked_for(searched):
    index, _, queries = searched
    values, rows = most_similar(index, queries, 50)
    assert all(sorted(line[:49]) == [*range(17), *range(18, 50)] for line in rows.tolist())
    assert (np.diff(values[:, :49]) <= 0).all() and np.isneginf(values[:, 49]).all()


def test_a_picture_is_not_its_own_nearest_and_equal_ones_are(tmp_path):
    descriptors = unit(np.random.default_rng(1), 20)
    descriptors[[3, 11, 19]] = descriptors[3]
    index = make_index(tmp_path, descriptors, 6)
    rows = np.array([3, 11, 0])
    values, nearest = to_nearest_other(index, rows)
    kept = descriptors.astype(np.float16).astype(np.float32)
    cosines = kept @ kept.T
    np.fill_diagonal(cosines, -np.inf)
    assert nearest[0] in (11, 19) and nearest[1] in (3, 19) and nearest[2] == cosines[0].argmax()
    assert values[2] == pytest.approx(cosines[0].max(), abs=1e-6)
    assert set(most_similar(index, descriptors[3:4], 3)[1][0].tolist()) == {3, 11, 19}


def test_similarities_of_chunks_are_the_largest_of_loops():
    rng = np.random.default_rng(2)
    a, b, chunks = rng.normal(size=(4, 6)), rng.normal(size=(5, 6)), 3
    same, cross = np.full((4, 5), -np.inf), np.full((4, 5), -np.inf)
    for i, j, c, d in itertools.product(range(4), range(5), range(chunks), range(chunks)):
        product = sum(a[i, 2 * c + k] * b[j, 2 * d + k] for k in range(2))
        cross[i, j] = max(cross[i, j], product)
        if c == d:
            same[i, j] = max(same[i, j], product)
    given = torch.from_numpy(a), torch.from_numpy(b)
    np.testing.assert_allclose(split(*given, chunks), same)
    np.testing.assert_allclose(split_cross(*given, chunks), cross)
    np.testing.assert_allclose(split(*given, 1), dot(*given))
    with pytest.raises(ValueError, match="6 numbers cannot be cut into 4"):
        similarity_called("splitloss", 4, 6)


def test_near_duplicates_are_chains_of_similar_pairs(tmp_path, monkeypatch):
    """Of pictures at angles on a circle: a chain whose ends are far apart, a pair, and pictures alone."""
    monkeypatch.setattr(stored, "BLOCK", 2)
    angles = np.array([0.0, 90, 10, 180, 20, 95, 270, 30])
    circle = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1).astype(np.float32)
    circle[6] = np.nan
    index = make_index(tmp_path, circle, 3)
    groups = similar_groups(index, float(np.cos(np.radians(11))))
    assert [g.tolist() for g in groups] == [[0, 2, 4, 7], [1, 5]]
    assert similar_groups(index, 0.99999) == []


def test_rows_and_what_they_are_are_read_back(searched):
    index, descriptors, _ = searched
    np.testing.assert_array_equal(index.descriptors([40, 3, 3]), descriptors[[40, 3, 3]])
    assert {row: entry.caption for row, entry in index.entries([40, 3]).items()} == {3: "caption 3", 40: "caption 40"}
    assert index.readable_rows().tolist() == [*range(17), *range(18, 50)]


def test_damaged_and_foreign_files_are_refused(searched, tmp_path):
    index, _, queries = searched
    with pytest.raises(InputError, match="no index"):
        stored.open_index(tmp_path / "nowhere")
    index.descriptors_file(2).write_bytes(b"torn")
    with pytest.raises(InputError, match="00002.npy is missing or damaged"):
        most_similar(index, queries, 1)
    np.save(index.descriptors_file(2), np.zeros((7, 3), np.float16))
    with pytest.raises(InputError, match=r"float16 \(7, 3\), not float16 \(7, 12\)"):
        most_similar(index, queries, 1)
    index.entries_file(0).write_text("{}\n")
    with pytest.raises(InputError, match="00000.jsonl"):
        index.entries([1])
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(InputError, match="does not say what the index is of"):
        stored.open_index(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("faiss") is not None, reason="faiss is here")
def test_without_faiss_one_line_says_so(searched):
    with pytest.raises(InputError, match="faiss-cpu"):
        approximate.make_approximate(searched[0])


@pytest.mark.parametrize("quantised", [False, True])
def test_faiss_finds_what_exact_search_finds_where_all_cells_are_probed(tmp_path, monkeypatch, quantised):
    pytest.importorskip("faiss")
    descriptors = unit(np.random.default_rng(3), 300)
    descriptors[5] = np.nan
    index, queries = make_index(tmp_path, descriptors, 64), unit(np.random.default_rng(4), 6)
    assert approximate.make_approximate(index) is None  # too few
    with pytest.raises(InputError, match="approximate.faiss is not there"):
        approximate.search_approximate(index, queries, 4)
    assert approximate.make_approximate(index, 100, quantised) == tmp_path / "approximate.faiss"
    monkeypatch.setattr(approximate, "PROBED", 1000)
    monkeypatch.setattr(approximate, "QUERIES", 4)
    values, rows = approximate.search_approximate(index, queries, 4)
    exact_values, exact = most_similar(index, queries, 4)
    np.testing.assert_array_equal(rows, exact)
    np.testing.assert_allclose(values, exact_values, atol=1e-6 if quantised else 2e-3)


def test_candidates_are_compared_again_by_their_descriptors(tmp_path):
    index = make_index(tmp_path, unit(np.random.default_rng(3), 30), 8)
    queries = unit(np.random.default_rng(4), 3)
    exact_values, exact = most_similar(index, queries, 5)
    shuffled = np.random.default_rng(5).permuted(np.tile(np.arange(-1, 30), (3, 1)), axis=1)
    values, rows = approximate.compared_again(index, queries, shuffled, 5)
    np.testing.assert_array_equal(rows, exact)
    np.testing.assert_allclose(values, exact_values, atol=1e-6)
    assert [approximate.num_codes(dim) for dim in (512, 100, 7)] == [64, 50, 7]
