"""Thresholds: what is let through, and which runs may use one."""

import json

import numpy as np
import pytest

from helpers.eval_runs import write_detection_runs
from memorization.errors import InputError
from memorization.evaluation.thresholds import Threshold, calibrate, calibrate_threshold
from memorization.finished_runs import read_run


def test_a_calibrated_threshold_lets_through_what_was_asked_for():
    scores = np.arange(100.0)
    for fpr, count in ((0, 0), (0.01, 1), (0.03, 3), (0.035, 3)):
        assert (scores > calibrate_threshold(scores, fpr)).sum() == count
    assert (np.ones(50) > calibrate_threshold(np.ones(50), 0.1)).sum() == 0  # ties stay below
    for fpr, values in ((1, [1]), (-0.1, [1]), (0.1, [])):
        with pytest.raises(ValueError):
            calibrate_threshold(values, fpr)


def test_a_threshold_is_for_runs_of_the_same_model_wherever_the_bundled_one_lies(tmp_path):
    _, others = write_detection_runs(tmp_path)
    pairs = [(run, row) for run in map(read_run, others) for row in run.rows]
    threshold = calibrate(pairs, "text_noise_norm", 1, 0.1)
    path = tmp_path / "t.json"
    path.write_text(threshold.save_text())
    assert Threshold.load(path) == threshold
    threshold.refuse_other_settings(pairs[0][0].settings, path)
    with pytest.raises(InputError, match="calibrated with guidance_scale 7.5, this run's is 3"):
        threshold.refuse_other_settings({**pairs[0][0].settings, "guidance_scale": 3}, path)
    bundled = {**json.loads(path.read_text()), "settings": {**threshold.settings, "model_id": "examples/planted_sd"}}
    settings = {**pairs[0][0].settings, "model_id": "/elsewhere/planted/planted_sd"}
    Threshold(**bundled).refuse_other_settings(settings, path)
