"""Localisation on maps whose answers are known."""

import pytest

from helpers.eval_runs import LAYERS, write_located_run
from memorization import evaluate
from memorization.evaluation.localisation import auroc_by_step
from memorization.finished_runs import read_run


@pytest.fixture
def located(tmp_path):
    root, path = write_located_run(tmp_path)
    return root, path, tmp_path / "e"


def test_localisation_of_a_perfect_an_inverted_and_two_control_maps(located):
    _, path, output = located
    section = evaluate("localisation", path, replicates=50)
    results = {r["map"]: r for r in section.results if r["kind"] == "template"}
    best, worst = results["bright ending"], results["noise_diff^2, all steps"]
    assert best["auroc"]["value"] == best["average_precision"]["value"] == best["iou"]["value"] == 1
    assert best["iou_dataset"]["value"] == 1 and worst["auroc"]["value"] == 0
    assert best["auroc_gain"]["value"] == 0 and worst["auroc_gain"]["value"] == -1
    assert results["all ones"]["auroc"]["value"] == 0.5 and results["all ones"]["iou"]["value"] == 0.5
    assert abs(results["bright ending, shuffled"]["auroc"]["value"] - 0.5) < 0.2
    assert results["end token + padding"]["auroc"]["value"] == 1
    assert results["bright ending x noise_diff^2, all steps"]["auroc"]["value"] == 1  # 0.01 inside, 0 outside
    assert f"end token, {LAYERS[1].split('.transformer')[0]}" in results
    assert best["prompts"] == 2 and best["images"] == 4
    single, running = auroc_by_step([read_run(path)])
    section.save(output)
    assert single.tolist() == running.tolist() == [0, 0, 0] and (output / "auroc_by_steps.png").exists()


def test_localisation_from_a_folder_of_masks_by_index(located):
    root, path, output = located
    for index in (0, 1, 2):  # as of Webster's templates, which not every prompt has
        (root / "gt_masks" / f"{index}.png").rename(output.parent / f"{index}.png")
    section = evaluate("localisation", path, masks=output.parent, replicates=50)
    assert {r["prompts"] for r in section.results if r["kind"] == "template"} == {1}
    assert "The true mask is the whole image: nothing to localise." in section.markdown()
    section.save(output)
    assert (output / "overlays.png").exists()
