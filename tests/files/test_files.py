"""Prompt sets, results files and mask files: what is read, what is refused, what survives a kill."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord, clean_prompt, load_prompts
from memorization.errors import InputError
from memorization.files.json_lines import ResultsFile
from memorization.files.masks import MaskStore
from memorization.files.npz import open_array, slabs, write_npz
from memorization.files.original_masks import is_original_layout, load_original_layout
from memorization.files.whole import replace_link
from memorization.tables import format_table


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


def test_prompts_are_cleaned_as_the_tokenizer_of_2023_did():
    assert clean_prompt("it\u2019s &amp;amp; caf\u00c3\u00a9 \ufb01ne ") == "it's & caf\u00e9 fine"


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


def test_arrays_are_read_in_place_or_slab_by_slab_and_a_link_replaced(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    write_npz(tmp_path / "all.npz", {"images": images, "name": np.array("x"), "none": np.empty((0, 3))})
    np.savez_compressed(tmp_path / "small.npz", images=images)
    replace_link(tmp_path / "all.npz", tmp_path / "newest.npz")
    for name in ("newest.npz", "small.npz"):
        assert np.array_equal(open_array(tmp_path / name, "images"), images)
        assert all(np.array_equal(a, b) for a, b in zip(slabs(tmp_path / name, "images"), images, strict=True))
    assert isinstance(open_array(tmp_path / "all.npz", "images"), np.memmap)
    assert open_array(tmp_path / "all.npz", "none").shape == (0, 3)
    assert str(open_array(tmp_path / "all.npz", "name")) == "x"


def test_table_by_hand():
    assert format_table(["a", "bb"], [["x", 0.5]]).splitlines() == ["| a | bb    |", "|---|-------|", "| x | 0.500 |"]


SETTINGS = {
    k: None for k in ("unet_id", "guidance_scale", "num_inference_steps", "image_length", "layers", "seed_mode")
}
SETTINGS["model_id"] = "m"
RECORD = PromptRecord(3, "p", "p")


def stored(path):
    store = MaskStore(SETTINGS)
    masks = torch.rand(2, 1, 4, 4)
    store.add(3, "p", [30, 31], masks, 100)
    store.save(path)
    return masks


def test_mask_file_round_trip_by_index_and_seed(tmp_path):
    masks = stored(tmp_path / "m.npz")
    store = MaskStore.load(tmp_path / "m.npz", SETTINGS, [RECORD], "remedy")
    assert store.evals == {3: 100} and store.has(3, [31]) and not store.has(3, [32]) and not store.has(4, [30])
    torch.testing.assert_close(store.get(3, [31, 30]), masks.flip(0), rtol=0, atol=1e-3)


def test_masks_of_something_else_are_refused(tmp_path):
    stored(tmp_path / "m.npz")
    with pytest.raises(ValueError, match="model_id 'm', this run's is 'other'; remedy"):
        MaskStore.load(tmp_path / "m.npz", SETTINGS | {"model_id": "other"}, [RECORD], "remedy")
    with pytest.raises(ValueError, match="at index 3 are of the prompt 'p'"):
        MaskStore.load(tmp_path / "m.npz", SETTINGS, [PromptRecord(3, "q", "q")], "remedy")
    write(tmp_path / "not.npz", "hello")
    with pytest.raises(ValueError, match="not a readable npz"):
        is_original_layout(tmp_path / "not.npz")
    np.savez(tmp_path / "pickle.npz", attention_scores=np.array([{}], dtype=object))
    with pytest.raises(ValueError):
        load_original_layout(tmp_path / "pickle.npz", [1], 1)


def test_the_originals_layout_gives_the_end_tokens_column(tmp_path):
    scores = np.random.default_rng(0).random((3, 2, 2, 16, 9)).astype(np.float16)  # prompts, layers, images, ...
    np.savez(tmp_path / "o.npz", attention_scores=scores)
    assert is_original_layout(tmp_path / "o.npz")
    masks = load_original_layout(tmp_path / "o.npz", [5, 7], 2, position=1)
    assert masks.shape == (2, 2, 1, 4, 4)
    expected = scores[2, :, 1, :, 7].astype(np.float32).mean(0).reshape(4, 4)
    assert np.allclose(masks[1, 1, 0].numpy(), expected)
    for ends, images, position in (([5], 3, 0), ([5, 5], 2, 2), ([9], 2, 0)):
        with pytest.raises(ValueError, match="this run needs"):
            load_original_layout(tmp_path / "o.npz", ends, images, position)
