"""Curves over doses, on made-up runs whose copies are known."""

import json

import numpy as np
import pytest

from experiments.dose_copies import ByDescriptor, by_pixels
from experiments.dose_curves import (
    SEVERAL,
    Group,
    copy_entries,
    dose_figure,
    dose_table,
    groups_of,
    map_entries,
    score_entries,
)
from memorization.bundled import COPY_DESCRIPTOR
from memorization.data.prompts import load_prompts
from memorization.evaluation.curves import rank_auc
from memorization.finished_runs import read_run
from memorization.similarity.descriptors import CopyDescriptor
from tests.helpers.eval_runs import (
    detection_rows,
    make_row,
    mixed,
    write_ground_truth,
    write_images,
    write_located_run,
    write_run,
)

DOSES = (1, 1, 64, 64, 64, 64)
SHARES = ((0, 0), (0, 0), (1, 0), (1, 1), (1, 0), (1, 1))  # of the training picture in each image


@pytest.fixture
def world(tmp_path):
    """A ground truth of six prompts with doses, and a run that copies as `SHARES` says."""
    root = write_ground_truth(tmp_path, count=6)
    path = root / f"{root.name}_repeated.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    captions = [1, 1, 1, 1, 4, 1]
    rows = [r | {"dose": d, "num_captions": c} for r, d, c in zip(rows, DOSES, captions, strict=True)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    scores = np.arange(12.0).reshape(6, 2, 1).tolist()
    found = []
    for index, shares in enumerate(SHARES):
        row = make_row(index, kind="?", is_memorized=None, text_noise_norm=scores[index])
        images = np.stack([mixed(index, share)[k] for k, share in enumerate(shares)])
        write_images(tmp_path, "doses_ours", row, images)
        found.append(row)
    run = read_run(write_run(tmp_path, "doses_ours", found, dataset=str(root)))
    return root, run


@pytest.mark.parametrize("ruler", ["pixels", "descriptor"])
def test_copies_are_counted_by_kind_and_dose_with_prompts_that_sometimes_copy(world, ruler):
    root, run = world
    records = {r.index: r for r in load_prompts(str(root))}
    how = by_pixels if ruler == "pixels" else ByDescriptor(CopyDescriptor(COPY_DESCRIPTOR), records)
    entries = copy_entries(run, records, groups_of(root), how)
    json.dumps(entries)  # as the results are kept
    found = {(e["kind"], e["dose"]): (e["copied"]["count"], e["copied"]["of"], e["prompts_between"]) for e in entries}
    assert found == {
        ("verbatim", 1): (0, 2, 0),
        ("template", 1): (0, 2, 0),
        ("verbatim", 64): (1, 2, 1),
        ("template", 64): (4, 4, 0),
        (SEVERAL, 64): (1, 2, 1),
    }
    table = dose_table(entries, "", "copied")
    assert "| template" in table and "dose 64" in table
    assert len(dose_figure(entries, [], ()).axes) == 3


def test_the_auc_of_a_dose_is_that_of_its_prompts_alone(world, tmp_path):
    root, run = world
    rows = [{**r, "text_noise_norm": [[v] for v in (5.5, 2.5)]} for r in detection_rows(False, 0, steps=1, prompts=3)]
    others = read_run(write_run(tmp_path, "others_ours", rows, dataset="others.jsonl"))
    entries = score_entries(run, [others], groups_of(root))
    found = {(e["kind"], e["dose"]): e["auc"]["value"] for e in entries if e["score"].startswith("D, T=")}
    assert found["verbatim", 1] == rank_auc([0.0, 1.0], [5.5, 2.5] * 3)
    assert found["verbatim", 64] == rank_auc([4.0, 5.0], [5.5, 2.5] * 3)
    assert set(found) == {(g.kind, g.dose) for g in groups_of(root).values()}


def test_a_group_says_its_dose():
    assert Group("template", 16).label == "template, dose 16"


def test_maps_are_compared_with_the_true_masks_of_the_templates_of_each_dose(tmp_path):
    """End-token maps that are the true mask, and noise differences that lie outside of it."""
    _, path = write_located_run(tmp_path)
    groups = {0: Group("verbatim", 1), 1: Group("template", 1), 2: Group("verbatim", 64), 3: Group("template", 64)}
    found = {(e["kind"], e["dose"], e["map"]): e["auroc"]["value"] for e in map_entries(read_run(path), groups)}
    assert {key[:2] for key in found} == {("template", 1), ("template", 64)}
    assert found["template", 64, "bright ending"] == 1 and found["template", 64, "noise_diff^2, all steps"] == 0
