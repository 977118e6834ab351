"""Results files, output helpers and command lines, apart from the scripts that use them."""

import errno
import json
import subprocess

import numpy as np
import pytest

from memorization.errors import InputError, exit_on_input_error
from memorization.files import json_lines as row_files
from memorization.files.json_lines import ResultsFile, git_commit, versions
from memorization.files.npz import Streamed, write_npz
from memorization.files.whole import make_folder, replacing, save_png
from memorization.runs.images import read_equal
from memorization.seeds import image_seed

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


def test_versions_without_git_and_in_somebody_elses_repository(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "x"]
    subprocess.run(commit, cwd=tmp_path, check=True)
    (tmp_path / "copy").mkdir()
    assert len(git_commit(tmp_path)) >= 7 and git_commit(tmp_path / "copy") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert versions()["commit"] is None and versions()["numpy"] == np.__version__


def images_npz(path, pngs, shape):
    write_npz(path, {"images": Streamed((len(pngs), *shape), np.uint8, read_equal(pngs, shape))})


def test_streamed_npz_equals_savez_and_refuses_images_of_two_sizes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 6, 4, 3), dtype=np.uint8)
    paths = [tmp_path / f"{k}.png" for k in range(3)]
    for path, image in zip(paths, images, strict=True):
        save_png(path, image)
    images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    np.savez(tmp_path / "b.npz", images=images)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a.files == b.files and a["images"].dtype == b["images"].dtype
        assert np.array_equal(a["images"], b["images"])
    before = (tmp_path / "a.npz").read_bytes()
    save_png(paths[2], images[2][:5])
    with pytest.raises(InputError, match="differ in size"):
        images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    paths[1].write_bytes(b"torn")
    with pytest.raises(InputError, match="1.png is not a readable image"):
        images_npz(tmp_path / "a.npz", paths, (6, 4, 3))
    assert (tmp_path / "a.npz").read_bytes() == before and not list(tmp_path.glob("*.tmp"))


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to .*file.*--output_dir"):
        make_folder(tmp_path / "file" / "sub")


@pytest.mark.parametrize(
    "error",
    [InputError("two\nlines"), OSError(errno.ENOSPC, "No space left", "out.png"),
     PermissionError(errno.EACCES, "Permission denied", "out.png"),
     NotADirectoryError(errno.ENOTDIR, "Not a directory", "out.png")],
    ids=lambda e: type(e).__name__ + str(getattr(e, "errno", "")),
)  # fmt: skip
def test_bad_input_ends_in_one_line_and_code_2(capsys, error):
    with pytest.raises(SystemExit) as stop, exit_on_input_error():
        raise error
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "I/O error")])
def test_our_own_faults_keep_their_traceback(error):
    with pytest.raises(type(error)), exit_on_input_error():
        raise error


def test_image_seeds_stay_apart_and_within_what_torch_takes():
    highest = image_seed(2**32 - 1, 99_999, 999)
    assert highest < 2**63
    assert image_seed(0, 0, 999) + 1 == image_seed(0, 1, 0)
