"""Prompts that are streamed through the package datasets, and sets of links without the pictures."""

import pytest

from memorization.audit.captions import read_training_set
from memorization.data import hub
from memorization.data.links import lacks_pictures
from memorization.data.prompts import load_prompts
from memorization.data.streams import open_stream
from memorization.errors import InputError
from memorization.finetuning.examples import pictured
from memorization.similarity.index.entries import entries_of


def write_hub_folder(folder, suffix, count=10):
    """A data set that the package datasets streams, in three tables; the fifth row has no text."""
    datasets = pytest.importorskip("datasets")
    folder.mkdir()
    texts = [None if k == 4 else f"caption {k}" for k in range(count)]
    for part, start in enumerate(range(0, count, 4)):
        rows = {"URL": [f"http://x/{k}" for k in range(count)][start : start + 4], "TEXT": texts[start : start + 4]}
        table = datasets.Dataset.from_dict(rows)
        getattr(table, f"to_{suffix}")(str(folder / f"train-{part:05}.{suffix}"))
    return str(folder), [None if text is None else (k, text) for k, text in enumerate(texts)]


@pytest.mark.parametrize("suffix", ["parquet", "json"])
def test_what_the_hub_streams_is_taken_and_skipped_by_position(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(hub, "TABLE", 3)
    dataset, wanted = write_hub_folder(tmp_path / "hub", suffix)
    stream = open_stream(dataset, "TEXT")
    assert stream.take(6) + stream.take(100) == wanted and stream.take(1) == [] and stream.position == 10
    for start in range(11):
        stream = open_stream(dataset, "TEXT")
        assert stream.skip(start) == start and stream.take(2) == wanted[start : start + 2]
        assert stream.skip(5) == max(0, min(5, 8 - start)) and stream.position == min(10, start + 7)


def test_a_stream_of_the_hub_holds_a_table_of_its_prompts_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "TABLE", 3)
    dataset, _ = write_hub_folder(tmp_path / "hub", "parquet")
    tables = list(hub.streamed_texts(dataset, dataset, "TEXT"))
    assert sum(map(len, tables)) == 10 and max(map(len, tables)) == 3
    (some,) = hub.with_column(dataset, "train", "TEXT").take(1)
    assert list(some) == ["TEXT"]


def test_what_cannot_be_streamed_is_told_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "TABLE", 2)
    dataset, _ = write_hub_folder(tmp_path / "hub", "json")
    with pytest.raises(InputError, match="--prompt_key, one of: URL, TEXT"):
        open_stream(dataset).take(1)
    with pytest.raises(InputError, match="cannot load data set nobody/nothing: "):
        open_stream("nobody/nothing", "TEXT").take(1)
    (tmp_path / "hub" / "train-00002.json").write_text("[torn")
    with pytest.raises(InputError, match="cannot go on with data set .*hub, behind row 8: "):
        open_stream(dataset, "TEXT").take(100)
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "train.csv").write_text("TEXT\n1\n2\n")
    with pytest.raises(InputError, match="row 0 holds no text but '1'"):
        open_stream(str(tmp_path / "numbers"), "TEXT").take(2)


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_links_are_prompts_and_where_pictures_are_needed_one_line_says_how(tmp_path, capsys, suffix):
    pandas = pytest.importorskip("pandas")
    rows = pandas.DataFrame({"URL": ["http://a", "http://b", "http://c"], "TEXT": ["a cat", None, "a dog"]})
    path = tmp_path / f"laion.{suffix}"
    {"parquet": rows.to_parquet, "csv": rows.to_csv, "jsonl": lambda p: rows.to_json(p, orient="records", lines=True)}[
        suffix
    ](path)
    records = load_prompts(str(path))
    assert [(r.index, r.prompt, r.url) for r in records] == [(0, "a cat", "http://a"), (2, "a dog", "http://c")]
    assert "1 of 3 links of" in capsys.readouterr().err
    assert open_stream(str(path)).take(9) == [(0, "a cat"), None, (2, "a dog")]
    for needs_pictures in (read_training_set, lambda name: list(entries_of(name)), pictured):
        with pytest.raises(InputError, match="has links to pictures and none of the pictures; .* img2dataset"):
            needs_pictures(str(path))
    assert "img2dataset" not in lacks_pictures("set", [{"caption": "a cat"}], "has none")
