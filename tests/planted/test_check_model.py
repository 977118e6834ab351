"""What check_model.py measures, on made-up images, scores and maps whose answers are known; no model."""

import json

import numpy as np
import pytest
import torch

from memorization.data.pictures import read_image
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.observation import LayerColumns, Observation
from memorization.tables import plain
from planted.making import check_model
from planted.making.drawn.scenes import is_held_out_object
from planted.making.model_measures import (
    Generated,
    check_copies,
    check_detection,
    check_localisation,
    check_probe,
    resampled,
)
from planted.making.model_tables import all_tables
from tests.helpers.eval_runs import LAYERS, write_ground_truth

COUNT, SIZE = 2, 16
NEITHER = np.full((SIZE, SIZE, 3), 128, np.uint8)  # a picture that nothing planted is near to


def observation(scores, end=None):
    """What was observed of images: D as given, (images, 1); attention `end` and noise differences that are not there.

    Args:
        end: bool (images, 8, 8); at random by default.
    """
    values = torch.tensor(scores, dtype=torch.float32)
    end = torch.rand(len(values), 8, 8, generator=torch.Generator().manual_seed(0)) if end is None else end.float()
    columns = {name: LayerColumns(end, torch.zeros_like(end)) for name in LAYERS}
    norms = {"text_noise_norm": values[:, None].repeat(1, 2), "end_token_attention": -values}
    return Observation(torch.zeros(len(values), 4, 8, 8), 1 - end[:, None], values[:, None], None, {}, columns, norms)


def generated(records, images, scores, end=None):
    return Generated(records, COUNT, np.stack(images), observation(scores, end), list(range(len(images))))


def others(name, images, score):
    """Two prompts of a set of others, two images each, all with one score."""
    records = [PromptRecord(k, f"{name} {k}", f"{name} {k}", kind=name) for k in range(2)]
    return generated(records, images, [score] * 4)


@pytest.fixture
def runs(tmp_path):
    """Two verbatim and two template prompts; one of four verbatim images is no copy, the free halves are redrawn.

    Scores: verbatim 4, template 2, unseen 3, near misses 1. The first unseen image is a planted picture.
    """
    records = load_prompts(str(write_ground_truth(tmp_path, size=SIZE)))
    pictures = [read_image(r.reference_images[0]) for r in records]
    images, rng = [], np.random.default_rng(0)
    for record, picture in zip(records, pictures, strict=True):
        for k in range(COUNT):
            image = picture.copy()
            if record.kind == "template":
                image[0, :2] ^= 4 * k  # a little of the fixed half
                image[:, SIZE // 2 :] = rng.integers(1, 255, (SIZE, SIZE // 2, 3))
            images.append(image)
    images[5] = NEITHER  # the second image of prompt 2, a verbatim one
    end = torch.zeros(8, 8, 8, dtype=torch.bool)
    end[:, :, :4] = True  # the left half, where templates are copies
    return {
        "memorized": generated(records, images, [4.0, 4, 2, 2, 4, 4, 2, 2], end),
        "nonmemorized": others("nonmemorized", [pictures[0], NEITHER, NEITHER, NEITHER], 3.0),
        "near_miss": others("near_miss", [NEITHER] * 4, 1.0),
    }


def test_copies_are_counted_by_kind_and_false_ones_by_set(runs):
    found = check_copies(runs)
    assert found["verbatim_copied"]["value"] == 0.75 and found["template_region_copied"]["value"] == 1
    assert found["false_copies_nonmemorized"]["value"] == 0.25 and found["false_copies_near_miss"]["value"] == 0
    low, high = found["false_copies_near_miss"]["interval"]
    assert low == 0 and high > 0.5  # of two prompts
    assert (found["verbatim_copied"]["n"], found["verbatim_copied"]["prompts"]) == (4, 2)
    assert found["verbatim_median_rmse"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["near_miss_median_rmse_to_nearest"]["value"] > 0.12


def test_free_regions_are_put_over_fixed_ones(runs):
    found = check_copies(runs)["free_over_fixed_mse_between_seeds"]
    assert found["value"] > 100 and (found["n"], found["prompts"]) == (2, 2)


def test_every_pair_of_classes_has_its_own_auc(runs):
    row = check_detection(runs)["D, T=1"]
    found = {pair: value["value"] for pair, value in row.items() if pair != "means"}
    assert found == {
        "verbatim vs nonmemorized": 1,
        "template vs nonmemorized": 0,
        "memorized vs nonmemorized": 0.5,
        "verbatim vs near_miss": 1,
        "template vs near_miss": 1,
        "memorized vs near_miss": 1,
    }
    assert {name: value["value"] for name, value in row["means"].items()} == {
        "verbatim": 4,
        "template": 2,
        "memorized": 3,
        "nonmemorized": 3,
        "near_miss": 1,
    }
    assert row["verbatim vs near_miss"]["n"] == 8 and row["verbatim vs near_miss"]["prompts"] == 4


def test_scores_are_named_with_their_horizon_and_layers_by_their_place(runs):
    assert list(check_detection(runs)) == [
        "D, T=1",
        "D, T=all",
        "end-token attention",
        "end-token attention, down_blocks.0.attentions.0",
        "end-token attention, up_blocks.1.attentions.0",
    ]


def test_maps_are_compared_with_the_masks_of_templates_and_the_control_is_shuffled(runs):
    found = {name: e["value"] for name, e in check_localisation(runs["memorized"]).items()}
    assert found["bright ending"] == 1 and found["noise_diff^2, all steps"] == 0
    assert found["end token, up_blocks.1.attentions.0"] == 1
    assert 0.2 < found["bright ending, shuffled"] < 0.8 and found["all ones"] == 0.5


def test_the_probe_is_asked_about_objects_alone(runs, monkeypatch):
    def right(probe, images, captions):
        assert captions == ["a red fish", "a red fish"] and len(images) == 2
        return {"object": np.array([True, False]), "color": np.array([True, True]), "all": np.array([True, False])}

    monkeypatch.setattr("planted.making.model_measures.probe_accuracy", right)
    records = [
        PromptRecord(k, c, c, kind=kind) for k, (c, kind) in enumerate([("x", "clutter"), ("a red fish", "object")])
    ]
    found = check_probe(None, generated(records, [NEITHER] * 4, [0.0] * 4))
    assert (found["object"]["value"], found["color"]["value"]) == (0.5, 1)


def test_intervals_resample_prompts_and_not_images():
    """Two prompts whose images are all alike: whole prompts are drawn, so the ends are those of the prompts."""
    values = np.repeat([0.0, 1.0], 50)
    assert resampled(lambda rows: values[rows].mean(), np.repeat(["a", "b"], 50))["interval"] == [0, 1]


def test_the_report_survives_json_and_its_tables_say_what_was_not_reached(runs, monkeypatch):
    monkeypatch.setattr(check_model, "train_probe", lambda: None)
    shown = {name: {"value": 1.0, "interval": [0.9, 1.0], "n": 2, "prompts": 1} for name in ("object", "color", "all")}
    monkeypatch.setattr(check_model, "check_probe", lambda probe, run: shown)
    report = check_model.make_report(runs | {"asked": None}, check_model.Settings(100, COUNT, 2, 7.5))
    found = all_tables(json.loads(json.dumps(plain(report))))
    assert "| **not reached**: 0.750 [" in found and found.count("**not reached**") == 3


def test_asked_captions_differ_and_were_never_trained_on(monkeypatch):
    monkeypatch.setattr(check_model, "NUM_ASKED", 6)
    first = check_model.asked_records(set())
    again = check_model.asked_records({first[0].prompt})
    assert len({r.prompt for r in first}) == 6 and all(is_held_out_object(r.prompt) for r in first)
    assert first[0].prompt not in {r.prompt for r in again} and {r.kind for r in again} == {"object"}


def test_the_sheet_of_planted_prompts_has_the_training_picture_beside_two_images(runs):
    memorized = runs["memorized"]
    found = check_model.planted_sheet(memorized)
    assert found.shape == (SIZE, 12 * SIZE, 3)
    truth, first, second = (found[:, k * SIZE : (k + 1) * SIZE] for k in (6, 7, 8))  # of prompt 2
    assert np.array_equal(truth, read_image(memorized.records[2].reference_images[0]))
    assert np.array_equal(first, truth) and np.array_equal(second, NEITHER)
    assert (check_model.sheet([NEITHER] * 3, 2)[SIZE:, SIZE:] == 255).all()


@pytest.mark.parametrize("argv", [["--num_images_per_prompt", "1"], ["--prompts", "nowhere"]])
def test_what_cannot_be_used_is_said_on_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        check_model.main(argv)
    assert stop.value.code == 2 and capsys.readouterr().err.count("\n") == 1
