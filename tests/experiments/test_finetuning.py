"""Cells of the fine-tuning table: two steps of a tiny model, measured once, and numbers out of made-up images."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from experiments import finetuning, finetuning_table
from experiments.finetuning_table import entries


class HereRunner:
    """Runs commands in this process."""

    def __init__(self, *given, **options):
        pass

    def work(self, commands, title):
        for _, *words in commands:
            name, argv = (words[1], words[2:]) if words[0] == "-m" else (Path(words[0]).stem, words[1:])
            importlib.import_module(name).main(argv)


def test_a_cell_is_trained_generated_measured_and_not_made_again(model_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(finetuning, "Runner", HereRunner)
    argv = ["--model_id", model_folder, "--output", tmp_path / "out", "--results", tmp_path / "found.json"]
    argv += ["--seeds", 1, "--steps", 2, "--batch_size", 2, "--images", 1, "--ordinary_images", 1]
    argv += ["--num_inference_steps", 1, "--cells", "captions: in_turn"]
    argv = [str(word) for word in argv]
    finetuning.main(argv)
    assert "captions: in_turn" in capsys.readouterr().out
    (cell,) = json.loads((tmp_path / "found.json").read_text())["cells"]
    assert cell["duplicated"]["own_copied"]["of"] == cell["once"]["own_copied"]["of"] == 24
    assert cell["clip"]["images"] == 48 and cell["seeds"] == 1
    monkeypatch.setattr(finetuning, "make_cell", lambda *given, **more: pytest.fail("it is measured"))
    finetuning.main(argv)
    monkeypatch.setattr(finetuning, "make_cell", lambda *given, **more: None)  # another cell keeps what is measured
    finetuning.main([*argv[:-1], "EMA"])
    assert [c["cell"] for c in json.loads((tmp_path / "found.json").read_text())["cells"]] == ["captions: in_turn"]
    with pytest.raises(SystemExit):
        finetuning.main([*argv, "--steps", "3"])
    assert "was made with" in capsys.readouterr().err


def test_a_cell_of_no_such_name_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        finetuning.main(["--output", str(tmp_path), "--cells", "random_tokns 0.1"])
    assert refused.value.code == 2 and "did you mean random_tokens 0.1" in capsys.readouterr().err


def test_numbers_are_those_of_the_images():
    def seed(own, rmse):
        rows = [
            {"index": k, "duplicated": k < 2, "own": [o, 0.1], "nearest": [0.9, 0.1], "rmse": [r, 0.9]}
            for k, (o, r) in enumerate(zip(own, rmse, strict=True))
        ]
        return {"trained": rows, "ordinary": [{"index": 7, "clip": [0.2, 0.4]}, {"index": 8, "clip": [0.6]}]}

    measured = {0: seed([0.8, 0.7, 0.3], [0.1, 0.5, 0.5]), 1: seed([0.6, 0.2, 0.9], [0.5, 0.5, 0.05])}
    found = entries(measured, {})
    duplicated, once = found["duplicated"], found["once"]
    assert (duplicated["own_copied"]["count"], duplicated["own_copied"]["of"]) == (3, 8)
    assert duplicated["by_seed"] == [0.5, 0.25] and once["by_seed"] == [0, 0.5]
    assert duplicated["any_copied"]["value"] == 0.5
    assert (once["rmse_copied"]["count"], once["rmse_copied"]["of"]) == (1, 4)
    assert duplicated["similarity"]["value"] == pytest.approx(np.mean([0.8, 0.7, 0.6, 0.2, *[0.1] * 4]))
    assert found["clip"]["value"] == pytest.approx(0.4) and found["clip"]["images"] == 6
    assert duplicated["similarity_change"] is None and entries(measured, measured)["clip_change"] is None
    assert entries(measured, dict(measured))["clip_change"]["value"] == 0  # another cell that gives the same images
    paired = entries({**measured, 2: measured[0]}, {1: seed([0.7, 0.7, 0.9], [0.5, 0.5, 0.05])})  # of seed 1 alone
    assert paired["duplicated"]["similarity_change"]["value"] == pytest.approx(np.mean([-0.1, 0, -0.5, 0]))
    assert paired["once"]["similarity_change"]["value"] == paired["clip_change"]["value"] == 0
    cell = {"cell": "none", **paired}
    settings = {"steps": 2, "batch_size": 2, "lr": "1e-4", "descriptor": "d"}
    text = finetuning_table.finetuning_table({"settings": settings, "cells": [cell]})
    assert "5 of 12" in text and "-0.15 [" in text and "mean of 9 images" in text
