"""Images of one colour are never measured as if something had been hidden."""

import numpy as np
import pytest
from PIL import Image

from helpers.eval_runs import mixed, write_descriptor, write_ground_truth, write_mitigation
from memorization.errors import InputError
from memorization.evaluation.audit import evaluate_audit
from memorization.evaluation.damage import evaluate_damage
from memorization.evaluation.mitigation import evaluate_mitigation
from memorization.evaluation.plain_colours import is_plain, without_plain_colours
from memorization.files.whole import save_png
from memorization.finished_runs import read_run
from memorization.similarity.measure import EvaluatorSettings, open_evaluators


@pytest.fixture
def runs(tmp_path):
    """Plain generation and a mitigation, of which two prompts' second image is black."""
    root = write_ground_truth(tmp_path)
    plain = [mixed(i, 1) for i in range(4)]
    black = [np.stack([mixed(i, 1)[0], mixed(i, 1)[1] * (i > 1)]) for i in range(4)]
    paths = (
        write_mitigation(root, "plain", "none", None, plain, optim_target_loss=None),
        write_mitigation(root, "a", "pe", 1.0, black),
    )
    return [read_run(path) for path in paths]


@pytest.fixture
def evaluators(tmp_path):
    return open_evaluators(EvaluatorSettings(sscd=write_descriptor(tmp_path)))


def test_a_black_picture_is_no_hidden_copy(runs, evaluators, capsys):
    results, measured = evaluate_mitigation(runs, evaluators)[:2]
    told = [line for line in capsys.readouterr().err.splitlines() if "one colour" in line]
    assert len(told) == 1 and "2 of 8 images of a_pe are of one colour (0_" in told[0] and "1_" in told[0]
    assert {m["index"] for rows in measured.values() for m in rows} == {2, 3}  # of all runs, so that they stay alike
    (pe,) = (r for r in results if r["method"] == "pe" and r["kind"] == "all")
    assert pe["prompts"] == 2 and pe["copied"]["value"] == 1


def test_damage_and_audit_leave_them_out_too(runs, evaluators):
    results = evaluate_damage(runs, evaluators)
    assert [r["prompts"] for r in results] == [2, 2]
    (audited,) = evaluate_audit([runs[1]], [runs[1]], [], evaluators)
    assert audited["prompts"] == 2 and audited["copied"]["value"] == 1


def test_nothing_but_black_pictures_is_refused(runs, evaluators):
    for row in runs[1].rows:
        for seed in row["seeds"]:
            save_png(runs[1].files.image(row["index"], seed), np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(InputError, match="nothing to measure; generate again with --dtype float32"):
        evaluate_mitigation(runs, evaluators)


def test_runs_without_them_stay_as_they_are(runs, capsys):
    assert without_plain_colours(runs[:1]) == runs[:1] and not capsys.readouterr().err


@pytest.mark.parametrize("size", [16, 512])
def test_what_is_of_one_colour(tmp_path, size):
    path = tmp_path / "a.png"
    for colour in ((0, 0, 0), (255, 255, 255), (9, 80, 200)):
        save_png(path, np.full((size, size, 3), colour, np.uint8))
        assert is_plain(path)
    picture = np.full((size, size, 3), 7, np.uint8)
    picture[-1, -1, 2] = 8
    save_png(path, picture)
    assert not is_plain(path)
    Image.effect_noise((size, size), 50).convert("RGB").save(path)
    assert not is_plain(path)
