"""Prompt sets in every accepted form, and text or files that real sets hold and readers trip over."""

import json

import numpy as np
import pytest
from PIL import Image

from memorization.data.pictures import read_image, read_mask
from memorization.data.prompts import clean_prompt, load_prompts
from memorization.errors import InputError


def jsonl(path, *rows, encoding="utf-8"):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding=encoding)
    return str(path)


def picture(path, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 50).convert("RGB").save(path)
    return path


def test_captions_may_hold_characters_that_look_like_line_ends(tmp_path):
    odd = "a\u2028b\x85c"
    records = load_prompts(jsonl(tmp_path / "x.jsonl", {"caption": odd}, {"caption": "d"}))
    assert [r.raw_prompt for r in records] == [odd, "d"]


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", {"caption": "a"}, encoding="utf-8-sig")
    assert load_prompts(path)[0].prompt == "a"


def test_fields_of_a_row_arrive_and_cleaning_can_be_switched_off(tmp_path):
    row = {"caption": "caf\u00c3\u00a9", "index": 7, "url": "http://x", "kind": "verbatim"}
    path = jsonl(tmp_path / "x.jsonl", row | {"is_memorized": True, "caption1": "b", "caption3": "d"})
    (record,) = load_prompts(path)
    assert (record.index, record.url, record.kind, record.is_memorized) == (7, "http://x", "verbatim", True)
    assert record.prompt == "caf\u00e9" and record.raw_prompt == row["caption"]
    assert record.alternatives == ("b",)  # numbered without gaps
    assert load_prompts(path, clean_prompts=False)[0].prompt == row["caption"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"is_memorized": "no"}, "line 1: is_memorized 'no' is neither true or false nor null"),
        ({"kind": 3}, "line 1: kind 3 is neither text nor null"),
        ({"url": []}, "line 1: url"),
        ({"index": True}, "line 1: index True"),
        ({"index": -1}, "line 1: index -1"),
        ({"caption": 5}, "line 1: no text under the key caption"),
    ],
)
def test_a_value_of_the_wrong_kind_names_file_and_line(tmp_path, row, message):
    with pytest.raises(InputError, match=f"bad.jsonl, {message}") as refusal:
        load_prompts(jsonl(tmp_path / "bad.jsonl", {"caption": "a"} | row))
    assert "\n" not in str(refusal.value)


def test_an_empty_slice_says_how_many_prompts_there_are(tmp_path):
    path = jsonl(tmp_path / "x.jsonl", *({"caption": c} for c in "abc"))
    with pytest.raises(InputError, match="from --start 3 on: it has 3"):
        load_prompts(path, 3, 9)
    assert [r.prompt for r in load_prompts(path, 1, 2)] == ["b"]
    with pytest.raises(InputError, match="--dataset is empty"):
        load_prompts("")


def test_ground_truth_prefers_the_file_with_alternatives_and_skips_stray_files(tmp_path):
    folder = tmp_path / "x_groundtruth"
    picture(folder / "gt_images" / "4" / "0.png")
    (folder / "gt_images" / "4" / "Thumbs.db").write_bytes(b"x")
    picture(folder / "gt_masks" / "4.png")
    row = {"caption": "a", "index": 4}
    jsonl(folder / "x_groundtruth_repeated.jsonl", row)
    assert load_prompts(str(folder))[0].alternatives == ()
    jsonl(folder / "x_groundtruth_repeated_withss.jsonl", row | {"caption1": "b"})
    (record,) = load_prompts(str(folder))
    assert record.alternatives == ("b",) and record.mask_path == folder / "gt_masks" / "4.png"
    assert [p.name for p in record.reference_images] == ["0.png"]


def test_pairs_that_are_not_utf8_or_share_a_number(tmp_path):
    picture(tmp_path / "7.jpg")
    (tmp_path / "7.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match="7.txt is not UTF-8"):
        load_prompts(str(tmp_path))
    for name in ("7", "007"):
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("p")
    with pytest.raises(InputError, match="index 7 twice"):
        load_prompts(str(tmp_path))


def test_random_prompts_depend_on_index_and_seed_only():
    first, longer, other = (load_prompts("random", 0, n, seed=s) for n, s in ((2, 0), (4, 0), (2, 1)))
    assert first == longer[:2] == load_prompts("random", 0, 2)
    assert load_prompts("random", 2, 4) == longer[2:]
    prompts = {r.prompt for r in (*longer, *other)}
    assert len(prompts) == 6 and all(p.replace(" ", "").isalpha() for p in prompts)


def test_a_hugging_face_folder_prefers_train_and_refuses_rows_without_text(tmp_path):
    datasets = pytest.importorskip("datasets")
    for split, texts in (("test", ["x"]), ("train", ["p", "q", None])):
        table = datasets.Dataset.from_dict({"T": texts})
        table.to_parquet(str(tmp_path / f"{split}.parquet"))
    assert [r.prompt for r in load_prompts(str(tmp_path), 0, 2, "T")] == ["p", "q"]
    with pytest.raises(InputError, match="column T holds no text in row 2"):
        load_prompts(str(tmp_path), 0, 3, "T")
    with pytest.raises(InputError, match="--prompt_key, one of: T"):
        load_prompts(str(tmp_path), 0, 3, "U")


def test_damaged_images_and_masks_are_named(tmp_path):
    path = picture(tmp_path / "a.png", (64, 64))
    assert read_image(path).shape == (64, 64, 3) and read_mask(path).dtype == bool
    path.write_bytes(path.read_bytes()[:60])
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="a.png is not a readable image"):
            read(path)
    with pytest.raises(InputError, match="not a readable image"):
        read_image(tmp_path / "missing.png")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("\u201cquoted\u201d \u2018x\u2019", "\"quoted\" 'x'"),
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("a &amp;lt; b", "a < b"),
        ("\ufb01ne art\n", "fine art"),
        ("plain ASCII, kept: 50% (a)", "plain ASCII, kept: 50% (a)"),
    ],
)
def test_cleaning(text, clean):
    assert clean_prompt(text) == clean


def test_masks_split_at_the_middle(tmp_path):
    Image.fromarray(np.array([[0, 127, 128, 255]], np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[False, False, True, True]]


def test_prompts_are_cleaned_as_the_tokenizer_of_2023_did():
    assert clean_prompt("it\u2019s &amp;amp; caf\u00c3\u00a9 \ufb01ne ") == "it's & caf\u00e9 fine"
