"""Every kind of data set: what is read, what is refused, and where it is looked for."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from memorization.bundled import GROUND_TRUTH, PLANTED, ROOT
from memorization.data.pictures import read_image
from memorization.data.prompts import load_prompts
from memorization.data.sources import find_path
from memorization.errors import InputError


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def picture(path, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 10, 10) if value else (0, 0, 0)).save(path)
    return path


def test_jsonl_with_alternatives_and_slices(tmp_path):
    rows = [{"caption": f"p{i}", "index": 10 + i, "caption1": "a", "caption2": "b"} for i in range(5)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    records = load_prompts(path, 1, 3)
    assert [r.index for r in records] == [11, 12] and records[0].alternatives == ("a", "b")
    assert [r.index for r in load_prompts(write(tmp_path / "y.jsonl", '{"caption": "a"}\n\n{"prompt": "b"}\n'))] == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"caption": "a"}\n{"caption": ', "line 2"),
        ('{"caption": "a"}\n{"title": "b"}', "line 2: no text under the key caption"),
        ("[1]", "line 1: expected a JSON object"),
        ("", "is empty"),
        ('{"caption": "a", "index": 1}\n{"caption": "b", "index": 1}', "index 1 twice"),
        ('{"caption": "a", "index": "x"}', "index 'x'"),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_prompts(write(tmp_path / "bad.jsonl", text))


def test_other_refusals(tmp_path):
    one = write(tmp_path / "one.jsonl", '{"caption": "a"}')
    with pytest.raises(InputError, match="must be smaller"):
        load_prompts(one, 3, 3)
    with pytest.raises(InputError, match="no prompts from --start 5"):
        load_prompts(one, 5, 9)
    with pytest.raises(InputError, match="does not exist"):
        load_prompts("nowhere.jsonl")
    for name in ("examples/sdv1_500_memorized.jsonl", "sdv1_500_mem_groundtruth"):
        with pytest.raises(InputError, match="Webster.*download_data.sh"):
            load_prompts(name)
    (tmp_path / "latin.jsonl").write_bytes(b'{"caption": "\xe9"}')
    with pytest.raises(InputError, match="UTF-8"):
        load_prompts(str(tmp_path / "latin.jsonl"))


def test_ground_truth_folder(tmp_path):
    folder = tmp_path / "a_groundtruth"
    folder.mkdir()
    with pytest.raises(InputError, match="has none of a_groundtruth_repeated_withss.jsonl"):
        load_prompts(str(folder))
    write(folder / "a_groundtruth_repeated.jsonl", '{"caption": "x", "index": 4}')
    with pytest.raises(InputError, match="no folder gt_images"):
        load_prompts(str(folder))
    (folder / "gt_images").mkdir()
    with pytest.raises(InputError, match="no images in gt_images/4"):
        load_prompts(str(folder))
    picture(folder / "gt_images" / "4" / "0.png")
    (record,) = load_prompts(str(folder))
    assert record.index == 4 and len(record.reference_images) == 1 and record.mask_path is None
    with pytest.raises(InputError, match="placeholder"):
        read_image(picture(tmp_path / "black.png", 0))


def test_pairs_random_and_local_hugging_face_folder(tmp_path):
    write(tmp_path / "pairs" / "007.txt", "seven\n")
    with pytest.raises(InputError, match="no image of the same name"):
        load_prompts(str(tmp_path / "pairs"))
    picture(tmp_path / "pairs" / "007.jpg")
    (record,) = load_prompts(str(tmp_path / "pairs"))
    assert (record.index, record.prompt) == (7, "seven")
    draws = [load_prompts("random", 0, n, random_prompt=lambda rng: str(rng.random())) for n in (2, 3)]
    assert draws[0] == draws[1][:2] and draws[1][0].prompt != draws[1][1].prompt
    write(tmp_path / "hub" / "train.csv", "TEXT,n\nhello,1\nworld,2\n")
    records = load_prompts(str(tmp_path / "hub"), 0, 500, prompt_key="TEXT")
    assert [r.prompt for r in records] == ["hello", "world"]
    with pytest.raises(InputError, match="--prompt_key, one of: TEXT, n"):
        load_prompts(str(tmp_path / "hub"))


@pytest.mark.parametrize(
    "folder", ["", "planted", "examples", "/elsewhere/examples", "/elsewhere/planted", "./examples"]
)
@pytest.mark.parametrize("name", ["planted_memorized.jsonl", "planted_mem_groundtruth"])
def test_bundled_data_sets_are_found_by_name_and_where_they_once_lay(tmp_path, monkeypatch, folder, name):
    monkeypatch.chdir(tmp_path)
    found = find_path(str(Path(folder, name)))
    assert found is not None and found.samefile(PLANTED / name)


def test_a_file_of_the_users_comes_before_a_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = write(tmp_path / "planted_memorized.jsonl", '{"caption": "mine"}')
    assert [r.prompt for r in load_prompts("planted_memorized.jsonl")] == ["mine"] and Path(own).is_file()


@pytest.mark.parametrize("name", ["sdv1_500_memorized.jsonl", "sdv1_500_mem_groundtruth"])
def test_documented_data_sets_are_found_where_they_are_fetched_to(tmp_path, monkeypatch, name):
    monkeypatch.setattr("memorization.data.sources.ROOT", tmp_path)
    monkeypatch.chdir(PLANTED)
    write(tmp_path / "examples" / "sdv1_500_memorized.jsonl", '{"caption": "a"}')
    shutil.copytree(GROUND_TRUTH, tmp_path / "examples" / "sdv1_500_mem_groundtruth")
    for given in (name, f"examples/{name}"):
        assert find_path(given) == tmp_path / "examples" / name
    assert tmp_path != ROOT


def ground_truth(folder, names_by_index):
    """A folder NAME_groundtruth with these files for each prompt; hidden ones and texts hold no picture."""
    rows = [{"caption": f"p{index}", "index": index} for index in names_by_index]
    write(folder / f"{folder.name}.jsonl", "\n".join(map(json.dumps, rows)))
    (folder / "gt_images").mkdir()
    for index, names in names_by_index.items():
        for name in names:
            path = folder / "gt_images" / str(index) / name
            if name.startswith(".") or name.endswith((".txt", ".heic")):
                write(path, "no picture")
            else:
                picture(path)
    return str(folder)


def test_a_prompt_whose_picture_is_gone_has_none(tmp_path):
    names = {0: ["0.WEBP", "._0.WEBP", "notes.txt"], 1: [], 2: [".DS_Store"], 3: ["a.bmp", "b.TIFF"]}
    records = load_prompts(ground_truth(tmp_path / "x_groundtruth", names))
    assert [[p.name for p in r.reference_images] for r in records] == [["0.WEBP"], [], [], ["a.bmp", "b.TIFF"]]
    assert all(read_image(p).any() for r in records for p in r.reference_images)


def test_files_that_are_no_pictures_are_named(tmp_path):
    names = {0: ["0.png"], 1: ["0.heic", "0.txt"]}
    with pytest.raises(InputError, match=r"gt_images/1 holds no picture that Pillow reads, but 0.heic, 0.txt; convert"):
        load_prompts(ground_truth(tmp_path / "x_groundtruth", names))


def test_masks_of_any_suffix(tmp_path):
    folder = ground_truth(tmp_path / "x_groundtruth", {5: ["0.png"]})
    mask = picture(Path(folder) / "gt_masks" / "5.TIFF")
    picture(Path(folder) / "gt_masks" / "55.png")
    assert load_prompts(folder)[0].mask_path == mask


def test_pairs_of_any_suffix_and_texts_that_are_no_captions(tmp_path, capsys):
    for name in ("1.WebP", "02.BMP", "x.tif", "bare.png"):
        picture(tmp_path / name)
    for name in ("1.txt", "02.TXT", "x.txt", "README.txt", "._1.txt"):
        write(tmp_path / name, f"caption of {name}\n")
    expected = [(2, "caption of 02.TXT"), (1, "caption of 1.txt"), (3, "caption of x.txt")]
    assert [(r.index, r.prompt) for r in load_prompts(str(tmp_path))] == expected
    told = capsys.readouterr().err
    assert "1 of 4 texts have no image of their name and are left out" in told
    assert "1 of 4 pictures have no text of their name and are left out" in told and "bare.png" in told
