"""Thresholds: what is let through, and which runs may use one."""

import json
import math

import numpy as np
import pytest

from helpers.eval_runs import write_detection_runs
from memorization.errors import InputError
from memorization.evaluation.classes import Part
from memorization.evaluation.decisions import conformal_p_values
from memorization.evaluation.thresholds import Threshold, calibrate, calibrate_threshold, controls_needed
from memorization.finished_runs import read_run

HOW = {"num_images_per_prompt": 2, "dtype": "torch.float32", "seed_mode": "per_image", "early_exit": None}


@pytest.mark.parametrize("fpr", [0.01, 0.03, 0.05, 0.1, 1 / 3, 0.5])
def test_a_threshold_is_the_right_control_score_and_agrees_with_the_p_value(fpr):
    rng = np.random.default_rng(0)
    for count in (99, 100, 199, 250, 1000):
        controls = rng.normal(size=count).round(1)  # with ties
        threshold = calibrate_threshold(controls, fpr)
        assert threshold == np.sort(controls)[math.ceil(round((1 - fpr) * (count + 1), 9)) - 1]
        scores = np.r_[controls, threshold, threshold + 0.05, rng.normal(size=50)]
        assert np.array_equal(scores > threshold, conformal_p_values(scores, controls) <= fpr + 1e-9)


def test_the_share_that_is_let_through_is_what_was_asked_for():
    """In expectation over controls: at most 1 %, where the share of the controls themselves gave 2 %."""
    rng, found = np.random.default_rng(1), []
    for _ in range(4000):
        controls = rng.random(100)
        found.append(1 - calibrate_threshold(controls, 0.01))
    assert np.mean(found) == pytest.approx(1 / 101, abs=0.0006)


def test_too_few_controls_are_refused_with_how_many_it_takes():
    assert [controls_needed(fpr) for fpr in (0.01, 0.03, 0.05, 0.5)] == [99, 33, 19, 1]
    for fpr, count in ((0.01, 98), (0.03, 32), (0.5, 0)):
        with pytest.raises(ValueError, match=f"takes {count + 1} or more"):
            calibrate_threshold(np.arange(count), fpr)
        assert calibrate_threshold(np.arange(count + 1), fpr) == count  # the highest
    for fpr in (0, 1, -0.1):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            calibrate_threshold([1], fpr)


def test_a_prompt_at_several_seeds_is_one_control(tmp_path):
    _, others = write_detection_runs(tmp_path)
    runs = [read_run(path) for path in others if path.stem.startswith("near")]
    parts = [Part(run, run.rows) for run in runs]
    threshold = calibrate(parts, "text_noise_norm", 1, 0.1)
    assert threshold.num_negatives == 12
    means = [np.mean([norms[0] for norms in row["text_noise_norm"]]) for row in runs[0].rows]
    assert threshold.threshold == pytest.approx(max(means))
    assert calibrate(parts, "end_token_attention", 1, 0.1).T is None  # a score without steps


def test_a_threshold_is_for_runs_of_the_same_model_wherever_the_bundled_one_lies(tmp_path):
    _, others = write_detection_runs(tmp_path)
    parts = [Part(run, run.rows) for run in map(read_run, others)]
    threshold = calibrate(parts, "text_noise_norm", 1, 0.1)
    path = tmp_path / "t.json"
    path.write_text(threshold.save_text())
    assert Threshold.load(path) == threshold
    settings = {**parts[0].run.settings, "num_images_per_prompt": 2}
    threshold.refuse_other_run(settings, path)
    for name, other in {"guidance_scale": 3, "num_images_per_prompt": 16, "dtype": "torch.float16"}.items():
        with pytest.raises(InputError, match=f"calibrated with {name} .*, this run's is {other!r}"):
            threshold.refuse_other_run({**settings, name: other}, path)
    bundled = {**json.loads(path.read_text()), "settings": {**threshold.settings, "model_id": "examples/planted_sd"}}
    Threshold(**bundled).refuse_other_run({**settings, "model_id": "/elsewhere/planted/planted_sd"}, path)


def test_a_file_of_before_is_refused_by_what_it_lacks(tmp_path):
    """Older files did not say how many images or which type they were of, and their threshold was another."""
    old = {"key": "text_noise_norm", "T": 1, "threshold": 2.0, "fpr": 0.03, "num_negatives": 48, "num_images": 4}
    path = tmp_path / "t.json"
    path.write_text(json.dumps(old | {"settings": {"model_id": "m", "guidance_scale": 7.5, "early_exit": None}}))
    with pytest.raises(InputError, match="older version, whose thresholds let through more .*: calibrate again"):
        Threshold.load(path)
