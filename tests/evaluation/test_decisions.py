"""Decisions at a false discovery rate: p-values and q-values by hand, and what is refused."""

import numpy as np
import pytest
from scipy import stats

from helpers.eval_runs import detection_rows, write_labelled_run, write_run
from memorization import InputError, evaluate
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.decisions import Decisions, benjamini_hochberg, conformal_p_values
from memorization.finished_runs import read_run


def test_p_values_count_ties_against_a_prompt():
    assert conformal_p_values([4, 3, 2.5, 0], [1, 2, 3]).tolist() == [1 / 4, 2 / 4, 2 / 4, 1]
    for scores, controls in (([1], []), ([float("nan")], [1]), ([1], [float("nan")])):
        with pytest.raises(ValueError, match="p-values take controls"):
            conformal_p_values(scores, controls)


def test_q_values_are_scipys():
    for seed in range(5):
        p_values = np.random.default_rng(seed).random(40).round(2) ** 2
        assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values))


def decided(tmp_path, count=39, **changes):
    """A labelled run of clearly memorized prompts, and a run of so many controls."""
    run = write_labelled_run(tmp_path, "both", 6)
    controls = write_run(tmp_path, "controls", detection_rows(False, 0, prompts=count, seed=7), **changes)
    return run, controls


def test_memorized_prompts_are_found_and_the_table_says_by_what(tmp_path):
    run, controls = decided(tmp_path, 239)
    section = evaluate("decisions", run, controls=controls, fdr=0.1)
    found = [line for line in section.results if line["memorized"]]
    assert len(section.results) == 24 and {line["index"] for line in found} >= set(range(12)) and len(found) <= 14
    told = section.markdown()
    assert f"{len(found)} of 24 prompts are memorized by D, T=1 at a false discovery rate of 0.1" in told
    assert "against 239 controls of 2 images each" in told and str(controls) in told
    assert "valid where the controls are exchangeable with the prompts that are not memorized" in told
    assert f"Of {len(found)} found, {len(found) - 12} are labelled not memorized" in told and "warning" not in told
    whole = evaluate("decisions", run, controls=controls, fdr=0.1, score="new_score", horizon=None).results
    assert sum(line["memorized"] for line in whole) >= 12


def test_labelled_memorized_prompts_are_no_controls(tmp_path):
    run = read_run(write_labelled_run(tmp_path, "both", 3))
    assert len(controls_of_run(run, "text_noise_norm", 1).scores) == 12


@pytest.mark.parametrize(
    ("count", "told"), [(9, "nothing is found;"), (39, "unless 12 of 24 prompts score above"), (479, None)]
)
def test_too_few_controls_are_told(tmp_path, count, told):
    decisions = Decisions(controls_of_run(read_run(decided(tmp_path, count)[1]), "text_noise_norm", 1), 0.05)
    warning = decisions.warning(24)
    assert warning is None if told is None else told in warning and "479 are enough" in warning


def test_other_controls_are_refused(tmp_path):
    run, controls = decided(tmp_path, 19, guidance_scale=3.0)
    with pytest.raises(InputError, match="calibrated with guidance_scale 3.0, this run's is 7.5"):
        evaluate("decisions", run, controls=controls)
    fewer = write_run(tmp_path, "fewer", detection_rows(False, 0, count=1))
    with pytest.raises(InputError, match="num_images_per_prompt 1, this run's is 2"):
        evaluate("decisions", run, controls=fewer)
    with pytest.raises(InputError, match="has no score sharpness"):
        evaluate("decisions", run, controls=controls, score="sharpness")
