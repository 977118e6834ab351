"""Detection on made-up runs whose answers are known."""

import json

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from helpers.eval_runs import detection_rows, find, write_detection_runs, write_labelled_run, write_run
from memorization import evaluate
from memorization.evaluation.detection import evaluate_detection, summary
from memorization.finished_runs import read_run


def test_detection_numbers_are_those_of_scikit_learn(tmp_path):
    mem, others = write_detection_runs(tmp_path)
    read = ([read_run(path) for path in paths] for paths in (mem, others))
    results = evaluate_detection(*read, num_images=[1, 2], horizons=[1, None])
    rows = {p: [json.loads(line) for line in p.read_text().splitlines()] for p in (*mem, *others)}
    near = [r for p in others if p.stem.startswith("near") for r in rows[p]]
    templates = [r for p in mem for r in rows[p] if r["kind"] == "template"]
    chosen = {"memorized_kind": "template", "negative_set": "near", "key": "text_noise_norm"}
    for level, count, T in (("image", 2, 1), ("image", 1, None), ("prompt", 2, None)):
        (result,) = find(results, **chosen, level=level, images=count, T=T)
        a, b = ([np.array(r["text_noise_norm"])[:count, :T].mean(1) for r in group] for group in (templates, near))
        a, b = ([x.mean() for x in g] if level == "prompt" else np.concatenate(g) for g in (a, b))
        expected = roc_auc_score([1] * len(a) + [0] * len(b), [*a, *b])
        assert result["auc"]["value"] == pytest.approx(expected)
        assert result["auc"]["low"] <= expected <= result["auc"]["high"]
        assert (result["memorized"], result["negatives"], len(result["auc_by_seed"])) == (6, 12, 2)


def test_differences_are_those_of_the_same_images(tmp_path):
    """A score that is the other one plus nothing differs by exactly 0, one that tells nothing by its whole AUC."""
    runs = []
    for name, memorized in (("a", True), ("b", False)):
        rows = detection_rows(memorized, 3 * memorized)
        for row in rows:
            row["text_noise_norm_masked"] = row["text_noise_norm"]
            row["text_noise_norm_shuffled"] = [[1.0] * 4] * 2
        runs.append(write_run(tmp_path, name, rows))
    section = evaluate("detection", runs[0], nonmem=runs[1])
    document = section.results
    found = {(d["less"], d["T"]): d["auc"] for d in document["differences"] if d["memorized_kind"] == "verbatim"}
    assert found["D", 1] == found["D", None] == {"value": 0, "low": 0, "high": 0}
    (whole,) = find(document["scores"], key="text_noise_norm", T=None, level="image", memorized_kind="verbatim")
    assert found["LD shuffled mask", None]["value"] == pytest.approx(whole["auc"]["value"] - 0.5)
    assert found["LD shuffled mask", None]["low"] < whole["auc"]["low"] - 0.5  # whose own AUC is uncertain too
    assert "| LD less D " in section.markdown()


def test_scores_that_only_scores_gives_are_compared_with_d_at_the_first_step(tmp_path):
    """A chosen score that is D's first step differs from it by exactly 0, per image and of all images only."""
    runs = []
    for name, memorized in (("a", True), ("b", False)):
        rows = detection_rows(memorized, memorized)
        for row in rows:
            row["tiled_l2"] = [values[0] for values in row["text_noise_norm"]]
        runs.append(write_run(tmp_path, name, rows))
    results = evaluate("detection", runs[0], nonmem=runs[1], num_images=[1, 2]).results["scores"]
    assert {(r["level"], r["images"]) for r in results if "auc_difference" in r} == {("image", 2)}
    for result in find(results, key="tiled_l2", level="image", images=2):
        assert result["auc_difference"] == {"value": 0, "low": 0, "high": 0}


def test_labelled_rows_need_no_second_file(tmp_path):
    results = evaluate("detection", write_labelled_run(tmp_path, "both", 3)).results["scores"]
    (result,) = find(results, key="end_token_attention", memorized_kind="all memorized", level="image")
    assert result["auc"]["value"] > 0.9


def test_the_summary_by_hand():
    rows = [
        {"is_memorized": m, "seeds": [0, 1], "text_noise_norm": [[v, 9.0], [v + 1, 9.0]]}
        for m, v in ((True, 3), (False, 2))
    ]
    text = summary(rows)
    assert "| D     | 1   | 3.500     | 2.500         | 0.875         | 1.000          |" in text
    assert text.endswith("1 memorized and 1 other prompts; higher = memorized")
    text = summary([row | {"is_memorized": None, "score_costs": {"sharpness": [2, 2]}} for row in rows])
    assert "| D     | 1   | 3.000 | 0                 | 0         |" in text
    assert text.endswith("2 prompts; higher = memorized")
