"""Results files: what is refused, what survives a kill, and what goes on."""

import json
from pathlib import Path

import pytest

from memorization.bundled import MODEL
from memorization.errors import InputError
from memorization.files import json_lines as row_files
from memorization.files.json_lines import ResultsFile, decode_line, numbered_lines

SETTINGS = {"gen_seed": 0, "layers": ("a", "b")}


def finished(tmp_path, rows=2):
    file = ResultsFile(tmp_path / "r.jsonl", SETTINGS)
    for index in range(rows):
        file.add({"index": index})
    return file


def test_settings_that_json_stores_otherwise_still_agree(tmp_path):
    path = finished(tmp_path).path
    assert ResultsFile(path, SETTINGS).done == {0, 1}
    record = json.loads(path.with_suffix(".config.json").read_text())
    assert record["settings"]["layers"] == ["a", "b"] and "torch" in record["versions"]


def test_every_differing_setting_is_named_and_nothing_touched(tmp_path):
    path = finished(tmp_path).path
    before = path.read_bytes()
    with pytest.raises(InputError, match="gen_seed 0 -> 1, layers .*, steps None -> 5.*--run_name.*--overwrite"):
        ResultsFile(path, {"gen_seed": 1, "layers": ["c"], "steps": 5})
    assert path.read_bytes() == before


def test_versions_alone_do_not_refuse(tmp_path, monkeypatch):
    path = finished(tmp_path).path
    monkeypatch.setattr(row_files, "versions", lambda: {"torch": "0"})
    assert ResultsFile(path, SETTINGS).done == {0, 1}


def test_overwrite_replaces_with_the_first_row_and_not_before(tmp_path):
    path = finished(tmp_path).path
    new = ResultsFile(path, {"gen_seed": 1}, overwrite=True)
    assert new.done == set() and len(path.read_text().splitlines()) == 2
    new.add({"index": 5})
    assert [r["index"] for r in ResultsFile(path, {"gen_seed": 1}).rows()] == [5]


def test_rows_without_settings_are_refused(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"index": 0}\n')
    with pytest.raises(InputError, match="has no r.config.json"):
        ResultsFile(path, SETTINGS)


@pytest.mark.parametrize("line", ["not json", '{"x": 0}', "[1]", "\0\0\0"])
def test_a_damaged_row_in_the_middle_is_named(tmp_path, line):
    path = finished(tmp_path).path
    path.write_text(f'{{"index": 0}}\n{line}\n{{"index": 1}}\n')
    with pytest.raises(InputError, match="r.jsonl, line 2: not a row with index"):
        ResultsFile(path, SETTINGS)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"settings": 3}'])
def test_a_damaged_settings_file_is_named(tmp_path, text):
    path = finished(tmp_path).path
    path.with_suffix(".config.json").write_text(text)
    with pytest.raises(InputError, match="r.config.json does not say how"):
        ResultsFile(path, SETTINGS)


def test_resume_after_a_torn_line_and_refusal_of_other_settings(tmp_path):
    file = ResultsFile(tmp_path / "a" / "r.jsonl", {"gen_seed": 0})
    file.add({"index": 0, "v": 1.5})
    file.add({"index": 1, "v": 2.5})
    with file.path.open("a") as handle:
        handle.write('{"index": 2, "v"')
    again = ResultsFile(file.path, {"gen_seed": 0})
    assert again.done == {0, 1}
    again.add({"index": 2, "v": 3.5})
    assert [r["v"] for r in again.rows()] == [1.5, 2.5, 3.5]
    with pytest.raises(InputError, match="gen_seed 0 -> 1.*--overwrite"):
        ResultsFile(file.path, {"gen_seed": 1})
    assert ResultsFile(file.path, {"gen_seed": 1}, overwrite=True).done == set()


@pytest.mark.parametrize("folder", ["/elsewhere/examples", "/elsewhere/planted", str(MODEL.parent)])
def test_a_run_of_the_bundled_model_goes_on_when_its_clone_was_moved(tmp_path, folder):
    """Settings once held the whole path, of examples/, where the bundled model lay."""
    file = ResultsFile(tmp_path / "r.jsonl", SETTINGS | {"model_id": f"{folder}/planted_sd", "dataset": "d"})
    file.add({"index": 0})
    for model in (str(MODEL), "planted_sd"):
        assert ResultsFile(file.path, SETTINGS | {"model_id": model, "dataset": "d"}).done == {0}
    for other in ("/elsewhere/own_sd", "/elsewhere/models/planted_sd", "other/planted_sd"):
        with pytest.raises(InputError, match="was made with other settings .model_id"):
            ResultsFile(file.path, SETTINGS | {"model_id": other, "dataset": "d"})


def test_a_file_that_is_no_bundled_one_is_known_by_its_whole_path(tmp_path):
    file = ResultsFile(tmp_path / "r.jsonl", {"dataset": "/a/examples/own.jsonl"})
    file.add({"index": 0})
    with pytest.raises(InputError, match="other settings"):
        ResultsFile(file.path, {"dataset": "/b/examples/own.jsonl"})


def test_lines_are_numbered_and_end_at_line_feeds_alone(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes("\ufeffa\u2028b\x85\r\n\nlast".encode())
    assert list(numbered_lines(path)) == [(1, "a\u2028b\x85"), (2, ""), (3, "last")]
    assert [number for number, _ in numbered_lines(path, finished_only=True)] == [1, 2]
    path.write_bytes(b"\xe9\n")
    with pytest.raises(InputError, match="x.jsonl is not UTF-8 text"):
        list(numbered_lines(path))
    with pytest.raises(InputError, match="cannot read .*none.jsonl"):
        list(numbered_lines(tmp_path / "none.jsonl"))


@pytest.mark.parametrize("line", ["{", "[" * 100_000, b"\xff", "NaN"])
def test_a_line_that_is_not_json_is_named(line):
    with pytest.raises(InputError, match="x, line 3: not JSON"):
        decode_line(Path("x"), 3, line, finite=True)
