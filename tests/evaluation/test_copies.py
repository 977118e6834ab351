"""Copies judged by rank and against the background and controls, on made-up runs whose answers are known."""

import json

import numpy as np
import pytest

import eval_mem
import memorization
from helpers.eval_runs import (
    find,
    make_row,
    quarters,
    write_descriptor,
    write_ground_truth,
    write_images,
    write_run,
)
from memorization.evaluation.decisions import conformal_p_values
from memorization.evaluation.judged_images import decide_prompts
from memorization.files.whole import save_png
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.regions import masked_region

CONTROLS = 40


def write_generations(root, name, pictures, **settings):
    """A run beside a ground-truth folder: two images for each prompt, verbatim and template in turn."""
    rows = [make_row(i, kind=("verbatim", "template")[i % 2]) for i in range(len(pictures))]
    for row, images in zip(rows, pictures, strict=True):
        write_images(root.parent, f"{name}_ours", row, images)
    return write_run(root.parent, f"{name}_ours", rows, dataset=str(root), **settings)


def half_copy(index):
    """The left half is the training picture's, the right half something else at either seed."""
    images = np.stack([quarters(300 + 2 * index + k) for k in range(2)])
    images[:, :, :8] = quarters(index)[:, :8]
    return images


def write_control_run(folder, name="controls", count=CONTROLS, **settings):
    rows = [{**make_row(i), "prompt": f"control {i}"} for i in range(count)]
    for row in rows:
        write_images(folder, f"{name}_ours", row, [quarters(1000 + 2 * row["index"] + k) for k in range(2)])
    return write_run(folder, f"{name}_ours", rows, dataset="controls.jsonl", **settings)


@pytest.fixture
def copied(tmp_path):
    """Verbatim prompts copy, templates copy their left half: (run, controls, descriptor)."""
    root = write_ground_truth(tmp_path)
    run = write_generations(root, "mem", [half_copy(i) if i % 2 else [quarters(i)] * 2 for i in range(4)])
    return run, write_control_run(tmp_path), write_descriptor(tmp_path)


def test_prompts_are_decided_by_their_highest_image_and_kind_by_kind():
    rng, fdr = np.random.default_rng(0), 0.2
    far = {("flagged", k): 5.0 for k in range(3)}
    values = {(kind, k): rng.normal(size=2) for kind, n in (("flagged", 4), ("other", 40)) for k in range(n)}
    lines = [
        {"prompt": f"{kind} {k}", "kind": kind, "nearest": value + far.get((kind, k), 0) * (j == 0)}
        for (kind, k), some in values.items()
        for j, value in enumerate(some)
    ]
    controls = [{"prompt": f"c {k}", "nearest": value} for k in range(30) for value in rng.normal(size=2)]
    decide_prompts(lines, controls, fdr)
    highest = [max(line["nearest"] for line in controls if line["prompt"] == f"c {k}") for k in range(30)]
    for kind, count in (("flagged", 4), ("other", 40)):
        p_values = {}
        for line in (line for line in lines if line["kind"] == kind):
            p = (1 + sum(value >= line["nearest"] for value in highest)) / 31
            assert line["p"] == pytest.approx(p)
            p_values[line["prompt"]] = min(p, p_values.get(line["prompt"], 1))
        ranked = sorted(p_values.values())
        limit = max((p for k, p in enumerate(ranked, 1) if p <= fdr * k / count), default=0)
        assert [line["is_copy"] for line in lines if line["kind"] == kind] == [
            line["p"] <= limit for line in lines if line["kind"] == kind
        ]
    assert [line["is_copy"] for line in lines[:6]] == [True, False] * 3  # the other 41 alone would hide them


def test_copies_are_found_by_rank_and_against_controls(copied, tmp_path, capsys):
    run, controls, path = copied
    argv = ["copies", run, "--controls", controls, "--sscd", path, "--output", tmp_path / "e", "--bootstrap", 20]
    eval_mem.main([*map(str, argv), "--fdr", "0.2"])
    told = capsys.readouterr().out
    assert "SSCD: color.torchscript.pt, preprocessing wen, sha256" in told and "| rank 1 " in told
    found = json.loads((tmp_path / "e" / "copies.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "e" / "per_image.jsonl").read_text().splitlines()]
    (verbatim,), (template,) = (find(found["copies"], kind=kind) for kind in ("verbatim", "template"))
    assert verbatim["rank1"]["value"] == verbatim["auc"]["value"] == 1 and verbatim["rank1"]["of"] == 4
    assert 0 < verbatim["rank1"]["low"] < 1 and verbatim["own"]["value"] == pytest.approx(1, abs=1e-5)
    assert "region" not in verbatim and template["region"]["value"] > template["whole"]["value"]
    assert template["region"]["value"] == pytest.approx(1, abs=1e-5) and template["region_auc"]["value"] == 1
    assert template["whole"] == template["own"] and template["region_prompts"] == 2

    descriptor = CopyDescriptor(path)
    training = descriptor([quarters(i) for i in range(4)]).numpy()
    nearest = [(descriptor([quarters(1000 + 2 * i)]).numpy() @ training.T).max() for i in range(CONTROLS)]
    expected = conformal_p_values([line["nearest"] for line in lines], nearest)
    assert [line["p"] for line in lines] == pytest.approx(expected.tolist())
    assert all(line["is_copy"] == (line["q"] <= 0.2) for line in lines)
    assert all(line["is_copy"] for line in lines if line["kind"] == "verbatim")
    between = np.where(np.eye(4), -1, training @ training.T).max(1)
    assert found["nearest"][0]["count"] == 4
    assert found["nearest"][0]["median"] == pytest.approx(np.median(between), abs=1e-5)
    assert found["nearest"][1]["count"] == 2 * CONTROLS


def test_controls_are_seen_through_every_mask(copied, tmp_path):
    """A control that has a template's left half beside something else is as near as the generations themselves."""
    run, controls, path = copied
    other = write_control_run(tmp_path, "some", 2)
    write_images(tmp_path, "some_ours", make_row(1), half_copy(3))
    found = memorization.evaluate("copies", run, controls=other, sscd=path, replicates=5).results["copies"]
    (template,) = find(found, kind="template")
    assert 0.5 <= template["region_auc"]["value"] < 1  # of two controls one ties, but for rounding
    mask = np.zeros((16, 16), bool)
    mask[:, :8] = True
    seen = CopyDescriptor(path)([masked_region(p, mask) for p in (half_copy(3)[0], quarters(3))])
    assert (seen[0] @ seen[1]).item() == pytest.approx(1, abs=1e-6)


def test_score_normalisation_takes_the_background_away(copied, tmp_path):
    run, controls, path = copied
    (tmp_path / "background").mkdir()
    for k in range(5):
        save_png(tmp_path / "background" / f"{k}.png", quarters(5000 + k))
    options = {"controls": controls, "sscd": path, "replicates": 5}
    plain = memorization.evaluate("copies", run, **options)
    normalised = memorization.evaluate(
        "copies", run, similarity="score_normalised", background=tmp_path / "background", **options
    )
    before, after = ([json.loads(x) for x in s.files["per_image.jsonl"].splitlines()] for s in (plain, normalised))
    descriptor = CopyDescriptor(path)
    background = descriptor([quarters(5000 + k) for k in range(5)])
    taken = (descriptor([quarters(0)]) @ background.T).sort().values[0, -3:].mean().item()
    assert after[0]["own"] == pytest.approx(before[0]["own"] - taken, abs=1e-5)
    assert [line["is_right"] for line in after] == [line["is_right"] for line in before]
    assert [line["cosine"] for line in after] == [line["cosine"] for line in before]
    assert "less the mean over the nearest of" in normalised.markdown()


def test_what_cannot_be_compared_is_refused(copied, tmp_path, capsys):
    run, controls, path = copied
    (tmp_path / "one").mkdir()
    for k, picture in enumerate(map(quarters, (0, 700, 701, 702))):  # the first is a training picture
        save_png(tmp_path / "one" / f"{k}.png", picture)

    def refused(*argv):
        with pytest.raises(SystemExit) as stop:
            eval_mem.main([*map(str, ("copies", *argv, "--output", tmp_path / "e"))])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in told
        return told.splitlines()[-1]

    usual = (run, "--controls", controls, "--sscd", path)
    assert "give one by --sscd" in refused(*usual[:-2])
    assert "go together" in refused(*usual, "--similarity", "score_normalised")
    normalised = (*usual, "--similarity", "score_normalised", "--background")
    assert "one holds a training picture" in refused(*normalised, tmp_path / "one")
    assert "controls_ours.jsonl is compared itself" in refused(*normalised, controls)
    assert "none does not exist" in refused(*normalised, tmp_path / "none")
    guided = write_control_run(tmp_path, "guided", 2, guidance_scale=3.0)
    assert "guidance_scale is 7.5 and 3.0" in refused(run, "--controls", guided, "--sscd", path)
    memorized = write_run(tmp_path, "m_ours", [make_row(0, is_memorized=True)])
    assert "m_ours.jsonl has memorized prompts alone" in refused(run, "--controls", memorized, "--sscd", path)
    assert "give what has the training pictures by --dataset" in refused(run, controls, *usual[1:])
