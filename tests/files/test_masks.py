"""Mask files in both layouts: what is read, and what is refused because it belongs to something else."""

import numpy as np
import pytest
import torch

from memorization.bundled import MODEL
from memorization.errors import InputError
from memorization.files.masks import MaskedPrompt, MaskParts, MaskStore, open_masks
from memorization.files.original_masks import is_original_layout, load_original_layout

SETTINGS = {
    "model_id": "m",
    "unet_id": None,
    "guidance_scale": None,
    "num_inference_steps": None,
    "image_length": None,
    "layers": None,
    "seed_mode": None,
}
WANTED = [MaskedPrompt(3, [30, 31], "p")]


def stored(path):
    store = MaskStore(SETTINGS)
    masks = torch.rand(2, 1, 4, 4)
    store.add(3, "p", [30, 31], masks, 100)
    store.save(path)
    return masks


def test_mask_file_round_trip_by_index_and_seed(tmp_path):
    masks = stored(tmp_path / "m.npz")
    store = open_masks(tmp_path / "m.npz", WANTED, SETTINGS, remedy="remedy")
    assert store.evals == {3: 100} and store.has(3, [31]) and not store.has(3, [32]) and not store.has(4, [30])
    torch.testing.assert_close(store.get(3, [31, 30]), masks.flip(0), rtol=0, atol=1e-3)


def test_masks_of_something_else_are_refused(tmp_path):
    stored(tmp_path / "m.npz")
    with pytest.raises(InputError, match="model_id 'm', this run's is 'other'; remedy"):
        open_masks(tmp_path / "m.npz", WANTED, SETTINGS | {"model_id": "other"}, remedy="remedy")
    with pytest.raises(InputError, match="at index 3 are of the prompt 'p'"):
        open_masks(tmp_path / "m.npz", [MaskedPrompt(3, [30], "q")], SETTINGS, remedy="remedy")
    (tmp_path / "not.npz").write_text("hello")
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


def test_a_file_that_lacks_a_mask_is_refused_unless_it_need_not_be_complete(tmp_path):
    stored(tmp_path / "m.npz")
    wanted = [*WANTED, MaskedPrompt(4, [40], "q")]
    with pytest.raises(InputError, match="m.npz has no mask of prompt 4 at this run's seeds; give another"):
        open_masks(tmp_path / "m.npz", wanted, SETTINGS, remedy="give another")
    with pytest.raises(InputError, match="no mask of prompt 4 at the seeds of x.jsonl; give another"):
        open_masks(tmp_path / "m.npz", wanted, SETTINGS, whose="x.jsonl", remedy="give another")
    with pytest.raises(InputError, match="are of model_id 'm', x.jsonl of 'n'; give another"):
        open_masks(tmp_path / "m.npz", wanted, {"model_id": "n"}, whose="x.jsonl", remedy="give another")
    found = open_masks(tmp_path / "m.npz", wanted, SETTINGS, complete=False)
    assert found.has(3, [30, 31]) and not found.has(4, [40])


def test_what_is_no_mask_is_refused_where_it_is_wanted(tmp_path):
    store = MaskStore(SETTINGS)
    store.add(3, "p", [30], torch.zeros(1, 1, 4, 4), 1)
    store.add(4, "q", [40], torch.ones(1, 1, 4, 4), 1)
    store.save(tmp_path / "m.npz")
    with pytest.raises(InputError, match="the mask of prompt 3 in .*m.npz is zero all over"):
        open_masks(tmp_path / "m.npz", [MaskedPrompt(3, [30], "p")], SETTINGS)
    assert open_masks(tmp_path / "m.npz", [MaskedPrompt(4, [40], "q")], SETTINGS).has(4, [40])
    assert sorted(open_masks(tmp_path / "m.npz").masks) == [(3, 30), (4, 40)]


def test_masks_of_the_bundled_model_fit_wherever_its_clone_lies(tmp_path):
    store = MaskStore(SETTINGS | {"model_id": "/elsewhere/examples/planted_sd"})
    store.add(3, "p", [30, 31], torch.ones(2, 1, 4, 4), 1)
    store.save(tmp_path / "m.npz")
    for model in (str(MODEL), "planted_sd"):
        assert open_masks(tmp_path / "m.npz", WANTED, SETTINGS | {"model_id": model}).has(3, [30, 31])


def test_the_originals_layout_answers_by_the_seeds_of_the_prompts_at_its_places(tmp_path):
    scores = np.random.default_rng(0).random((3, 2, 2, 16, 9)).astype(np.float16)
    np.savez(tmp_path / "o.npz", attention_scores=scores)
    wanted = [MaskedPrompt(7, [70, 71], "ab"), MaskedPrompt(9, [90, 91], "abc")]
    masks = open_masks(tmp_path / "o.npz", wanted, SETTINGS, end_token=len, start=1)
    expected = scores[2, :, :, :, 3].astype(np.float32).mean(0).reshape(2, 1, 4, 4)
    assert masks.get(9, [90, 91]).dtype == torch.float32
    assert np.array_equal(masks.get(9, [90, 91]).numpy(), expected)
    assert np.array_equal(masks.get(9, [91, 90]).numpy(), expected[::-1]) and not masks.evals
    with pytest.raises(InputError, match="this run needs at least 4 prompts"):
        open_masks(tmp_path / "o.npz", wanted, SETTINGS, end_token=len, start=2)
    with pytest.raises(InputError, match="in the original's layout, which says no prompts and seeds"):
        open_masks(tmp_path / "o.npz", wanted, SETTINGS)
    with pytest.raises(InputError, match="mask file .*none.npz does not exist"):
        open_masks(tmp_path / "none.npz", wanted, SETTINGS, end_token=len)


def test_parts_are_merged_with_a_file_that_is_there(tmp_path):
    masks, parts = stored(tmp_path / "m.npz"), MaskParts(tmp_path / "parts", SETTINGS)
    parts.add(5, "r", [50], torch.full((1, 1, 4, 4), 0.5), 20)
    parts.merged([parts.path(5, [50])], open_masks(tmp_path / "m.npz")).save(tmp_path / "all.npz")
    whole = open_masks(tmp_path / "all.npz")
    assert whole.prompts == {3: "p", 5: "r"} and whole.evals == {3: 100, 5: 20}
    assert whole.get(5, [50]).unique().tolist() == [0.5]
    torch.testing.assert_close(whole.get(3, [30, 31]), masks, rtol=0, atol=1e-3)
