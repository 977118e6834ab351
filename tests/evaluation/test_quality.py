"""Quality as the third axis: ruined pictures are seen in the tables, the numbers and the figures of mitigation."""

import json

import numpy as np
import pytest
import torch

import eval_mem
from helpers.eval_runs import (
    make_row,
    quarters,
    write_descriptor,
    write_ground_truth,
    write_images,
    write_mitigation,
    write_run,
)
from memorization import InputError
from memorization.evaluation.quality import find_reference, is_ruined
from memorization.evaluation.tradeoff import tradeoff_tables
from memorization.finished_runs import read_run
from memorization.report.mitigation_figures import tradeoff_figure
from memorization.report.sections import mitigation_section
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.measure import Evaluators
from memorization.tables import parse_results, plain

PROMPTS = 6


class MeanColors:
    """Mean and spread of each colour: a CLIP that needs no weights."""

    description = "mean colours"

    def features(self, images):
        values = torch.from_numpy(np.concatenate([images.mean((1, 2)), images.std((1, 2))], 1) / 255 - 0.3).float()
        return torch.nn.functional.normalize(values, dim=1)

    def __call__(self, images, prompt):
        return self.features(images)[:, 0].tolist()


def soft(seed):
    """A picture of four quarters in soft colours."""
    return (quarters(seed, 32) // 4 + 100).astype(np.uint8)


@pytest.fixture
def runs(tmp_path):
    """Plain generation, PE that changes the picture and PRSS that blows it out; ordinary prompts; a descriptor."""
    root = write_ground_truth(tmp_path, PROMPTS, 32)
    pictures = {
        "none": [np.stack([soft(i)] * 2) for i in range(PROMPTS)],
        "pe": [np.stack([soft(50 + 2 * i + k) for k in range(2)]) for i in range(PROMPTS)],
        "prss": [
            np.where(np.stack([quarters(90 + 2 * i + k, 32) for k in range(2)]) > 128, 255, 0).astype(np.uint8)
            for i in range(PROMPTS)
        ],
    }
    paths = [
        write_mitigation(root, "x", name, None if name == "none" else 1.0, some) for name, some in pictures.items()
    ]
    paths[2] = write_run(
        tmp_path,
        "x_prss_mitigation",
        [json.loads(line) for line in paths[2].read_text().splitlines()],
        dataset=str(root),
        l_target_ss=1.0,
        l_target_pr=1.0,
        mag_thres_pr=2.0,
    )
    rows = []
    for index in range(40):
        rows.append(make_row(index, method="none", unet_evals_per_image=8.0) | {"prompt": f"ordinary {index}"})
        write_images(tmp_path, "ord_none", rows[-1], [soft(200 + 2 * index + k) for k in range(2)])
    return paths, write_run(tmp_path, "ord_none_mitigation", rows), write_descriptor(tmp_path)


def evaluated(runs, reference, replicates=50):
    paths, _, descriptor = runs
    evaluators = Evaluators(CopyDescriptor(descriptor), MeanColors(), quality_reference=reference)
    return mitigation_section([read_run(p) for p in paths], evaluators)


def test_ruined_pictures_are_seen_where_privacy_and_prompt_do_not_see_them(runs, tmp_path):
    section = evaluated(runs, runs[1])
    none, pe, prss = (r for r in section.results if r["kind"] == "all")
    assert [r["method"] for r in (none, pe, prss)] == ["none", "pe", "prss"]
    assert [r["ruined"] for r in (none, pe, prss)] == [False, False, True]
    assert prss["saturated"]["value"] == 1 and none["saturated"]["value"] == pe["saturated"]["value"] == 0
    assert prss["cmmd"]["low"] > pe["cmmd"]["high"] and pe["cmmd"]["value"] == pytest.approx(0, abs=0.5)
    assert prss["cmmd_change"]["low"] > 0 > pe["cmmd_change"]["low"] and "cmmd_change" not in none
    assert prss["cmmd_released"] > prss["cmmd"]["value"] and prss["quality_reference"] == "ord_none"
    assert {r["kind"] for r in section.results if r["ruined"]} == {"verbatim", "template", "all"}
    text = section.markdown()
    assert "all, quality against ord_none (80 images)" in text and "CMMD: features of mean colours, interval by" in text
    assert "CMMD of fewer than 300 images has a wide interval" in text and "whose images are the copies" not in text
    assert "| prss (ruined) " in text and "| ruined |" in text
    section.save(tmp_path / "e")
    (line,) = (json.loads(r) for r in (tmp_path / "e" / "per_prompt.jsonl").read_text().splitlines()[:1])
    assert len(line["saturated"]) == len(line["outside"]) == 2
    assert json.loads((tmp_path / "e" / "mitigation.json").read_text())[-1]["ruined"] is True


def test_the_figure_has_a_third_axis_and_old_results_are_drawn_without(runs):
    results = parse_results(json.dumps(plain(evaluated(runs, runs[1]).results)))
    figure = tradeoff_figure(results)
    assert [len(figure.axes), figure.axes[-1].get_xlabel()[:4]] == [6, "CMMD"]
    labels = [line.get_label() for line in figure.axes[-1].lines]
    assert "ruined images" in labels
    many = [{**r, "method": f"{r['method']}{k}"} for k in range(6) for r in results if r["method"] != "none"]
    panels = tradeoff_figure(many)
    assert any("CMMD" in axis.get_ylabel() for axis in panels.axes)  # the bar of colours
    new = {"cmmd", "cmmd_change", "cmmd_released", "ruined", "quality_reference", "outside_change", "outside"}
    old = [{k: v for k, v in r.items() if k not in new} for r in results]
    assert len(tradeoff_figure(old).axes) == 3
    values = {r["run"]: [{"kind": "k", "sscd": [0.5], "clip": [0.5]}] * 3 for r in old}
    assert "CMMD" not in tradeoff_tables(old, values, "all")[0].headers


def test_without_a_reference_it_is_plain_generation_of_the_same_prompts(runs, tmp_path):
    none, pe, prss = (r for r in evaluated(runs, None).results if r["kind"] == "all")
    assert none["cmmd"]["value"] == pytest.approx(0, abs=1e-9) and none["quality_reference"] == "x_none"
    assert prss["ruined"] and "cmmd_change" not in prss
    assert "whose images are the copies" in evaluated(runs, runs[0][0]).markdown()  # named, it is the same
    paths, _, descriptor = runs
    argv = ["mitigation", *map(str, paths[1:]), "--sscd", str(descriptor), "--output", str(tmp_path / "e")]
    eval_mem.main([*argv, "--bootstrap", "5"])
    assert "quality" not in (tmp_path / "e" / "mitigation.md").read_text()  # nothing to measure it against
    folder = tmp_path / "images_data" / "ord_none"
    eval_mem.main([*argv, "--bootstrap", "5", "--quality_reference", str(folder)])
    text = (tmp_path / "e" / "mitigation.md").read_text()
    assert "No CMMD without CLIP" in text and "cropped at the centre" in text and "| ruined |" in text


def test_references_that_are_none_are_refused_before_the_work(runs, tmp_path, capsys):
    (_, pe, _), ordinary, descriptor = runs
    own = [read_run(p) for p in runs[0]]
    with pytest.raises(InputError, match="is of pe; give plain generation of ordinary prompts"):
        find_reference(own, pe)
    other = write_run(
        tmp_path, "y_none_mitigation", [json.loads(x) for x in ordinary.read_text().splitlines()], guidance_scale=3.0
    )
    assert "of another guidance_scale: 3.0, not 7.5" in find_reference(own, other).note
    with pytest.raises(SystemExit) as stop:
        eval_mem.main(["mitigation", str(pe), "--sscd", str(descriptor), "--quality_reference", str(tmp_path / "no")])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "does not exist; give a result file or a folder of pictures" in told
    assert "prompt/s" not in told


def test_a_run_is_ruined_only_beyond_what_plain_generation_is():
    share = {"value": 0.9, "low": 0.8, "high": 1.0}
    assert is_ruined({"outside": share}) and is_ruined({"outside": share, "outside_change": share})
    assert not is_ruined({"outside": share, "outside_change": {"value": 0.1, "low": -0.1, "high": 0.3}})
    assert not is_ruined({"outside": {"value": 0.4, "low": 0.3, "high": 0.5}})
