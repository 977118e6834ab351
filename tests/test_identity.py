"""Contents of files: read once, read again when changed, and compared wherever they lie."""

import json
import os
import time

import pytest
import torch

from memorization.identity import (
    FileHashes,
    change_text,
    content_of_files,
    content_of_tensors,
    differing,
    is_same,
    pair_text,
)

HOUR = 3600 * 10**9


@pytest.fixture
def settled(tmp_path):
    """Write a file as if it had lain there for an hour."""

    def write(name, data):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        then = time.time_ns() - HOUR
        os.utime(path, ns=(then, then))
        return path

    return write


def test_a_file_is_read_once_until_it_changes(settled, tmp_path):
    path, cache = settled("a.bin", b"one"), tmp_path / "cache" / "contents.json"
    first = FileHashes(cache)
    found = first.of(path)
    first.save()
    again = FileHashes(cache)
    assert again.of(path) == found and (first.num_read, again.num_read) == (1, 0)
    state = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # as a copy that keeps times leaves it
    changed = FileHashes(cache)
    assert changed.of(path) != found and changed.num_read == 1


def test_a_file_that_was_just_written_is_not_trusted_yet(tmp_path):
    path, cache = tmp_path / "a.bin", tmp_path / "contents.json"
    path.write_bytes(b"one")
    hashes = FileHashes(cache)
    hashes.of(path)
    hashes.save()
    assert not cache.exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1, "b": []}', None])
def test_a_cache_that_is_damaged_or_cannot_be_written_is_done_without(settled, tmp_path, text):
    cache = tmp_path / "file" / "contents.json"
    if text is None:
        (tmp_path / "file").write_text("no folder")
    else:
        cache.parent.mkdir()
        cache.write_text(text)
    hashes = FileHashes(cache)
    assert len(hashes.of(settled("a.bin", b"one"))) == 64
    hashes.save()
    assert text is None or json.loads(cache.read_text())


def test_the_cache_lies_where_the_user_says(settled, tmp_path, monkeypatch):
    monkeypatch.delenv("MEMORIZATION_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    content_of_files([settled("a.bin", b"one")])
    assert (tmp_path / "xdg" / "memorization" / "contents.json").is_file()


def test_a_folder_is_its_files_wherever_it_lies(settled, tmp_path):
    def content(name, *files):
        return content_of_files([settled(f"{name}/{n}", data) for n, data in files], tmp_path / name)

    one = content("one", ("config.json", b'{"a": 1, "_name_or_path": "x"}'), ("w.bin", b"weights"))
    assert one == content("two", ("config.json", b'{"_diffusers_version": "9", "a": 1}'), ("w.bin", b"weights"))
    assert one != content("three", ("config.json", b'{"a": 2}'), ("w.bin", b"weights"))
    assert one != content("four", ("config.json", b'{"a": 1}'), ("w.bin", b"Weights"))
    assert content_of_files([tmp_path / "none"]) is None and content_of_files([]) is None


def test_a_large_file_of_the_hub_is_named_by_its_hash(tmp_path):
    blob = tmp_path / "blobs" / ("ab" * 32)
    blob.parent.mkdir()
    blob.write_bytes(b"x")
    (tmp_path / "model.safetensors").symlink_to(blob)
    hashes = FileHashes(tmp_path / "c.json")
    assert hashes.of(tmp_path / "model.safetensors") == "ab" * 32 and hashes.num_read == 0


def test_weights_in_memory():
    weights = {"a": torch.arange(4.0), "b": torch.ones(2, dtype=torch.bfloat16)}
    same = {name: tensor.clone() for name, tensor in reversed(weights.items())}
    assert content_of_tensors(weights) == content_of_tensors(same)
    assert content_of_tensors(weights) != content_of_tensors(weights | {"a": weights["a"].reshape(2, 2)})
    same["b"][1] = 2
    assert content_of_tensors(weights) != content_of_tensors(same)


def settings(model, content, **rest):
    return {"model_id": model, "content": {"model_id": content}} | rest


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (settings("a", "files:1"), settings("b", "files:1"), True),  # moved
        (settings("a", "files:1"), settings("a", "files:2"), False),  # changed in place
        (settings("a", "files:1"), settings("a", "tensors:2"), True),  # of two kinds: by name
        (settings("a", "files:1"), settings("b", "tensors:2"), False),
        ({"model_id": "a"}, settings("a", "files:2"), True),  # made before contents were kept
        ({"model_id": "a"}, settings("b", "files:2"), False),
        ({"model_id": "a", "content": 3}, settings("a", "files:2"), True),
        (settings("a", "files:1", scheduler={"x": 1}), settings("a", "files:1", scheduler={"x": 2}), False),
        (settings("a", "files:1"), settings("a", "files:1", scheduler={"x": 2}), True),
    ],
)
def test_contents_are_compared_where_both_are_known(old, new, same):
    assert (differing(old, new) == []) is same and (differing(new, old) == []) is same


def test_what_differs_is_said():
    old, new = (
        settings("a", "files:12", scheduler={"x": 1, "y": 0}),
        settings("a", "files:34", scheduler={"x": 2, "y": 0}),
    )
    assert change_text("model_id", old, new) == "the model 'a' of model_id has changed since"
    assert pair_text("model_id", old, new) == ("'a' (content 12)", "'a' (content 34)")
    assert change_text("scheduler", old, new) == "scheduler x 1 -> x 2" and not is_same("scheduler", old, new)
    assert change_text("dataset", {"dataset": "d"}, {"dataset": "e"}) == "dataset 'd' -> 'e'"
