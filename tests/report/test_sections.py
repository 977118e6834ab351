"""Sections: what is reported on a topic, and where it is written."""

import json

import pytest
from PIL import Image

from helpers.eval_runs import (
    mixed,
    quarters,
    write_descriptor,
    write_detection_runs,
    write_ground_truth,
    write_images,
    write_labelled_run,
    write_located_run,
    write_mitigated_runs,
    write_mitigation,
)
from memorization import InputError, evaluate, read_run
from memorization.report.mitigation_figures import verdicts_of
from memorization.report.sections import can_localise, prompts_section, shown_runs


def test_a_section_is_saved_as_tables_numbers_and_figures(tmp_path):
    mem, others = write_detection_runs(tmp_path)
    section = evaluate("detection", mem, nonmem=others)
    paths = section.save(tmp_path / "e")
    assert [p.name for p in paths] == ["detection.md", "detection.json", "scores.png", "roc.png", "auc_by_steps.png"]
    assert sorted(paths) == sorted((tmp_path / "e").iterdir())
    assert paths[0].read_text() == section.markdown() + "\n" == section._repr_markdown_() + "\n"
    assert json.loads(paths[1].read_text())["scores"][0]["score"] == "D"
    assert section.notes[-1] == "6 runs of m at gen_seed 0, 1, made by commit abc"
    assert all(note in section.markdown() for note in section.notes)


def test_figures_are_drawn_on_a_light_and_on_a_dark_ground(tmp_path):
    section = evaluate("detection", write_labelled_run(tmp_path, "both", 2))
    (figure,) = (f for f in section.figures if f.name == "roc")
    grounds = []
    for dark in (False, True):
        png, width = figure.render(dark)
        (tmp_path / "f.png").write_bytes(png)
        with Image.open(tmp_path / "f.png") as picture:
            assert picture.size[0] == width
            grounds.append(picture.convert("RGB").getpixel((1, 1)))
    assert grounds == [(255, 255, 255), (0x15, 0x18, 0x1C)]


def test_evaluation_takes_runs_and_paths_and_refuses_what_it_does_not_know(tmp_path):
    path = write_labelled_run(tmp_path, "both", 2)
    given = (path, str(path), read_run(path), [path], [read_run(path)])
    first, *rest = (evaluate("detection", runs).results for runs in given)
    assert all(results == first for results in rest)
    with pytest.raises(InputError, match="no evaluation called 'detecton'; did you mean detection"):
        evaluate("detecton", path)
    with pytest.raises(TypeError, match="dataset"):
        evaluate("detection", path, dataset="x")
    with pytest.raises(TypeError, match="ssdc"):
        evaluate("damage", path, ssdc="x")


def test_pictures_are_left_out_where_there_are_no_images(tmp_path):
    _, path = write_located_run(tmp_path)
    run = read_run(path)
    names = [f.name for f in evaluate("localisation", run, replicates=5).figures]
    assert names == ["overlays", "auroc_by_steps"] and can_localise(run)
    for png in run.files.images.iterdir():
        png.unlink()
    assert [f.name for f in evaluate("localisation", run, replicates=5).figures] == ["auroc_by_steps"]
    run.files.map(0).unlink()
    assert not can_localise(run)


def test_prompts_stand_in_the_order_of_d(tmp_path):
    run = read_run(write_labelled_run(tmp_path, "both_ours", 2))
    for row in run.rows:
        write_images(tmp_path, run.key, row, [quarters(row["index"])] * 2)
    section = prompts_section([run])
    column = [float(row[2]) for row in section.tables[0].rows]
    assert section.tables[0].headers[:3] == ["prompt", "kind", "D, T=1"]
    assert len(column) == 24 and column == sorted(column, reverse=True)
    assert [f.name for f in section.figures] == ["gallery"]


def test_the_tradeoff_needs_both_measures(tmp_path):
    _, runs, descriptor = write_mitigated_runs(tmp_path)
    section = evaluate("mitigation", runs, sscd=descriptor, replicates=5)
    assert [f.name for f in section.figures] == ["strips"] and list(section.files) == ["per_prompt.jsonl"]
    assert "SSCD: color.torchscript.pt, preprocessing wen" in section.text


def test_strips_show_the_weakest_strength_that_hides_and_say_what_is_ruined(tmp_path):
    root = write_ground_truth(tmp_path)
    runs = [write_mitigation(root, "plain", "none", None, [mixed(i, 1) for i in range(4)])]
    for target, share in ((3.0, 1), (2.0, 0), (1.0, 0)):  # a lower one is a stronger mitigation
        runs.append(write_mitigation(root, f"to{target:g}", "pe", target, [mixed(i, share) for i in range(4)]))
    section = evaluate("mitigation", runs, sscd=write_descriptor(tmp_path), replicates=5)
    shown, where = shown_runs([read_run(path) for path in runs], section.results)
    assert [run.key for run in shown] == ["plain_none", "to2_pe"] and "hides" in where
    last = {**section.results[-1], "cmmd": {"value": 0.25}, "ruined": True}
    assert verdicts_of([last]) == {last["run"]: "CMMD 0.25, ruined"}
