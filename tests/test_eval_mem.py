"""eval_mem.py on made-up runs whose answers are known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import eval_mem
from helpers.eval_runs import (
    LAYERS,
    detection_rows,
    make_row,
    mixed,
    quarters,
    write_descriptor,
    write_ground_truth,
    write_images,
    write_maps,
    write_mitigation,
    write_run,
)
from memorization.evaluation.localisation import auroc_by_step
from memorization.evaluation.tradeoff import add_areas, against_reference, privacy_at, tradeoff_tables
from memorization.files.masks import MaskStore
from memorization.finished_runs import read_run
from memorization.similarity.descriptors import CopyDescriptor, PerceptualDistance, sscd_transform
from memorization.similarity.pixels import copy_similarity, local_similarity, seed_diversity


def evaluate(command, *paths, output, **options):
    """Run a subcommand in this process with few resamples; returns the JSON it wrote."""
    flags = [
        part for k, v in options.items() for part in (f"--{k}", *(map(str, v) if isinstance(v, list) else [str(v)]))
    ]
    eval_mem.main([command, *map(str, paths), *flags, "--bootstrap", "50", "--output", str(output)])
    results = json.loads((output / f"{command}.json").read_text())
    return results["scores"] if command == "detection" else results


def refused(capsys, *argv):
    """The one line that a call ends with, with exit code 2."""
    with pytest.raises(SystemExit) as stop:
        eval_mem.main([*map(str, argv)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in told
    lines = [line for line in told.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def detection_runs(tmp_path):
    """Memorized prompts at two seeds and two sets of others."""
    mem = [
        write_run(tmp_path, f"mem{s}", detection_rows(True, 1.5, seed=s), gen_seed=s, dataset="planted") for s in (0, 1)
    ]
    others = [
        write_run(tmp_path, f"{name}{s}", detection_rows(False, 0, seed=s), gen_seed=s % 10, dataset=f"{name}.jsonl")
        for name, s in (("generic", 10), ("near", 20), ("generic", 11), ("near", 21))
    ]
    return mem, others


def find(results, **wanted):
    return [r for r in results if all(r[k] == v for k, v in wanted.items())]


def test_detection_numbers_are_those_of_scikit_learn(tmp_path, detection_runs):
    mem, others = detection_runs
    results = evaluate(
        "detection", output=tmp_path / "e", mem=mem, nonmem=others, num_images=[1, 2], horizons=[1, "all"]
    )
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


def test_detection_finds_every_score_and_draws(tmp_path, detection_runs, capsys):
    mem, others = detection_runs
    results = evaluate("detection", output=tmp_path / "e", mem=mem, nonmem=others)
    assert {r["score"] for r in results} == {"D", "new_score", "end-token attention"}  # not uncond_noise_norm
    assert {r["memorized_kind"] for r in results} == {"verbatim", "template", "all memorized"}
    assert {r["T"] for r in find(results, key="text_noise_norm")} == {1, None}  # of 4 steps, 10 is all of them
    told = capsys.readouterr().out
    assert "TPR@1%FPR*" in told and "* Fewer than 100 negative prompts" in told
    for name in ("roc", "scores", "auc_by_steps"):
        with Image.open(tmp_path / "e" / f"{name}.png") as picture:
            assert len(set(picture.convert("L").tobytes())) > 20


def test_differences_are_those_of_the_same_resamples(tmp_path):
    """A score that is the other one plus nothing differs by exactly 0, one that tells nothing by its whole AUC."""
    runs = []
    for name, memorized in (("a", True), ("b", False)):
        rows = detection_rows(memorized, 3 * memorized)
        for row in rows:
            row["text_noise_norm_masked"] = row["text_noise_norm"]
            row["text_noise_norm_shuffled"] = [[1.0] * 4] * 2
        runs.append(write_run(tmp_path, name, rows))
    evaluate("detection", output=tmp_path / "e", mem=runs[:1], nonmem=runs[1:])
    document = json.loads((tmp_path / "e" / "detection.json").read_text())
    found = {(d["less"], d["T"]): d["auc"] for d in document["differences"] if d["memorized_kind"] == "verbatim"}
    assert found["D", 1] == found["D", None] == {"value": 0, "low": 0, "high": 0}
    (whole,) = find(document["scores"], key="text_noise_norm", T=None, level="image", memorized_kind="verbatim")
    assert found["LD shuffled mask", None]["value"] == pytest.approx(whole["auc"]["value"] - 0.5)
    assert found["LD shuffled mask", None]["low"] == pytest.approx(whole["auc"]["low"] - 0.5)
    assert "| LD less D " in (tmp_path / "e" / "detection.md").read_text()


def test_labelled_rows_need_no_second_file(tmp_path):
    rows = [*detection_rows(True, 3), *({**r, "index": r["index"] + 50} for r in detection_rows(False, 0))]
    (result,) = find(
        evaluate("detection", output=tmp_path / "e", mem=[write_run(tmp_path, "both", rows)]),
        key="end_token_attention", memorized_kind="all memorized", level="image",
    )  # fmt: skip
    assert result["auc"]["value"] > 0.9


def test_kinds_from_a_table_by_caption(tmp_path, detection_runs, capsys):
    """Semicolons and a column called type, as NeMo's labels have them; prompts without a label keep their own."""
    mem, others = detection_runs
    table = tmp_path / "labels.csv"
    table.write_text(";Caption;type\n0;prompt 0;VM\n1;prompt 1;TM\n2;prompt 2;TM\n")
    results = evaluate("detection", output=tmp_path / "e", mem=mem, nonmem=others, kinds=table)
    counts = {r["memorized_kind"]: r["memorized"] for r in results}
    assert counts == {"VM": 1, "TM": 2, "verbatim": 4, "template": 5, "all memorized": 12}
    argv = ("detection", "--mem", *mem, "--nonmem", *others, "--kinds", table)
    table.write_text("caption,kind\nanother,VM\n")
    assert "labels.csv has none of the prompts in" in refused(capsys, *argv)
    table.write_text("caption,x\nprompt 0,VM\n")
    assert "needs the columns caption and kind (or type); it has caption, x" in refused(capsys, *argv)


def test_calibration_writes_a_threshold_and_warns(tmp_path, detection_runs, capsys):
    mem, others = detection_runs
    argv = {"mem": mem, "nonmem": others, "calibrate": 0.01, "score": "new_score", "horizon": "all"}
    evaluate("detection", output=tmp_path / "e", **argv, threshold_file=tmp_path / "t.json")
    threshold = json.loads((tmp_path / "t.json").read_text())
    rows = [json.loads(line) for p in others for line in p.read_text().splitlines()]
    assert threshold["threshold"] == pytest.approx(max(np.mean(r["new_score"]) for r in rows))
    assert (threshold["key"], threshold["T"], threshold["num_images"]) == ("new_score", None, 2)
    assert "12 negatives cannot resolve a false positive rate of 0.01" in capsys.readouterr().out


@pytest.fixture
def located(tmp_path):
    """A run whose end-token map is the true mask, and whose noise_diff^2 lies outside of it."""
    root = write_ground_truth(tmp_path)
    rows = [make_row(i, kind=("verbatim", "template")[i % 2]) for i in range(4)]
    for row in rows:
        truth = np.asarray(Image.open(root / "gt_masks" / f"{row['index']}.png"))[::2, ::2, 0] / 255.0
        diff = np.stack([np.stack([1 - truth] * 3)] * 2) + 0.01
        write_maps(tmp_path, "loc_ours", row, np.stack([truth * (k + 1) for k in range(2)]), diff)
        write_images(tmp_path, "loc_ours", row, [quarters(k) for k in range(2)])
    return root, write_run(tmp_path, "loc_ours", rows, dataset=str(root)), tmp_path / "e"


def test_localisation_of_a_perfect_an_inverted_and_two_control_maps(located):
    root, path, output = located
    results = {r["map"]: r for r in evaluate("localisation", path, output=output) if r["kind"] == "template"}
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
    assert single.tolist() == running.tolist() == [0, 0, 0] and (output / "auroc_by_steps.png").exists()


def test_localisation_from_a_folder_of_masks_by_index(located, capsys):
    root, path, output = located
    for index in (0, 1, 2):  # as of Webster's templates, which not every prompt has
        (root / "gt_masks" / f"{index}.png").rename(output.parent / f"{index}.png")
    results = evaluate("localisation", path, output=output, masks=output.parent)
    assert {r["prompts"] for r in results if r["kind"] == "template"} == {1}
    assert "The true mask is the whole image: nothing to localise." in capsys.readouterr().out
    assert (output / "overlays.png").exists()


@pytest.fixture
def mitigated(tmp_path):
    """Plain generation that copies, a mitigation that does not, and one in between; four prompts, two images."""
    root, runs = write_ground_truth(tmp_path), []
    for name, method, strength, share in (("plain", "none", None, 1), ("a", "pe", 2.0, 0.5), ("b", "pe", 1.0, 0)):
        runs.append(write_mitigation(root, name, method, strength, [mixed(i, share) for i in range(4)]))
    return root, runs, write_descriptor(tmp_path)


def test_mitigation_table_orders_copies(tmp_path, mitigated):
    root, runs, descriptor = mitigated
    results = evaluate("mitigation", *runs, output=tmp_path / "e", sscd=descriptor)
    rows = [r for r in results if r["kind"] == "all"]
    assert [(r["method"], r["strength"]) for r in rows] == [("none", 0), ("pe", 2), ("pe", 1)]
    sscd = [r["sscd"]["value"] for r in rows]
    assert sscd[0] == pytest.approx(1, abs=1e-5) and sscd[0] > sscd[1] > sscd[2]
    assert rows[0]["copied"]["value"] == 1 and rows[0]["s"]["value"] == 0 and rows[0]["diversity"]["value"] < 1e-5
    lines = [json.loads(line) for line in (tmp_path / "e" / "per_prompt.jsonl").read_text().splitlines()]
    assert len(lines) == 12 and {len(line["sscd"]) for line in lines} == {2}
    assert np.mean([np.mean(line["sscd"]) for line in lines[:4]]) == pytest.approx(sscd[0])


def test_references_are_the_nearest_and_preprocessing_is_as_stated(tmp_path):
    descriptor = CopyDescriptor(write_descriptor(tmp_path))
    images = [quarters(0), quarters(1)]
    similarity = copy_similarity(descriptor(images), descriptor([quarters(5), quarters(1), quarters(0)]))
    assert similarity.tolist() == pytest.approx([1, 1], abs=1e-5)
    assert seed_diversity(descriptor([images[0]] * 2)) == pytest.approx(0, abs=1e-6)
    assert np.isnan(seed_diversity(descriptor(images[:1])))
    white, wide = Image.new("RGB", (300, 400), "white"), Image.new("RGB", (600, 300))
    assert sscd_transform("wen")(white).shape == (3, 224, 224) and sscd_transform("wen")(white).unique().tolist() == [1]
    top = [(1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert sscd_transform("official_320")(white)[:, 0, 0].tolist() == pytest.approx(top)
    assert sscd_transform("official_320")(wide).shape == (3, 320, 320)
    assert sscd_transform("official_288")(wide).shape == (3, 288, 576)
    sizes = CopyDescriptor(write_descriptor(tmp_path), "official_288")([np.asarray(white), np.asarray(wide)])
    assert sizes.shape == (2, 12)


def test_local_similarity_by_hand():
    """Equations 9 and 10 on two pixels: 0 where SSCD finds a copy, else the distance where the mask is."""
    image = np.full((2, 2, 2, 3), 255, np.uint8)
    reference = image[0].copy()
    reference[0, 0] = 0  # differs by 1 in three channels at one pixel; 2 x 2 pixels scale to 512 by 256
    far, near = local_similarity(image, [np.zeros_like(reference), reference], [0.2, 0.7])
    assert near == 0 and far == pytest.approx(-(3**0.5) * 256)
    mask = np.array([[[0, 2], [2, 2]], [[4, 0], [0, 0]]], np.float32)
    assert local_similarity(image, [reference], [0, 0], mask) == pytest.approx([0, -(3**0.5) * 256])


def test_a_run_against_pe_at_its_own_utility_by_hand():
    """PE falls from (1, .9) to (.2, .5) in SSCD and CLIP: at the others' CLIP of .7 and .4 it has .6, and nothing."""
    curve = np.array([[[1.0, 0.9], [0.2, 0.5]]])
    assert privacy_at(curve, np.array([0.7]))[0] == pytest.approx(0.6)
    assert np.isnan(privacy_at(curve, np.array([0.95]))[0])
    assert privacy_at(np.array([[[1.0, 0.5], [0.6, 0.9], [0.2, 0.5]]]), np.array([0.7]))[0] == pytest.approx(0.4)
    points = {"plain": ("none", 1, 0.9), "x": ("pe", 0.2, 0.5), "y": ("prss", 0.1, 0.7), "z": ("prss", 0.0, 0.4)}
    measured = {run: [{"kind": "k", "sscd": [s], "clip": [c]} for _ in range(3)] for run, (_, s, c) in points.items()}
    value = {"value": 0.0, "low": 0.0, "high": 0.0}
    rows = [
        {"kind": "all", "run": r, "method": m, "strength": 1, "sscd": value, "clip": value}
        for r, (m, _, _) in points.items()
    ]
    reference, compared = against_reference(rows, measured, "all")
    assert reference == "pe" and list(compared) == ["y", "z"]
    expected, difference = compared["y"]
    assert expected["value"] == pytest.approx(0.6) and difference["value"] == pytest.approx(-0.5)
    assert difference["low"] == pytest.approx(-0.5)  # three equal prompts have no spread
    assert np.isnan(compared["z"][1]["value"])
    add_areas(rows, measured)
    table, areas = tradeoff_tables(rows, measured, "all")
    assert [row[-1] for row in table.rows] == ["-0.500 [-0.500, -0.500]", "-"]
    assert [row[0] for row in areas.rows] == ["pe", "prss"]
    assert against_reference(rows[:2], measured, "all")[1] == {}


def damaged(path, line, **changes):
    """Change a row, or replace it by a text."""
    lines = path.read_text().splitlines()
    lines[line] = changes["text"] if "text" in changes else json.dumps({**json.loads(lines[line]), **changes})
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_noise_norm": [[float("nan")] * 4] * 2}, "line 3: text_noise_norm holds NaN"),
        ({"text_noise_norm": [[1.0] * 4]}, "line 3: text_noise_norm is of 1 images, the row's seeds are 2"),
        ({"text_noise_norm": [[1.0] * 4, [1.0] * 3]}, "line 3: text_noise_norm has steps or images missing"),
        ({"text": '{"index": 2, "prompt": "p"}'}, "line 3: a row of another version, without seeds"),
        ({"text": "not json"}, "line 3: not JSON"),
        ({"is_memorized": False}, "given by --mem, but its prompt 2 is labelled otherwise"),
    ],
)
def test_damaged_rows_end_in_one_line(detection_runs, tmp_path, capsys, changes, message):
    mem, others = detection_runs
    damaged(mem[0], 2, **changes)
    assert message in refused(capsys, "detection", "--mem", *mem, "--nonmem", *others, "--output", tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_runs_that_cannot_be_compared(detection_runs, tmp_path, capsys):
    mem, others = detection_runs
    other_model = write_run(tmp_path, "x", detection_rows(False, 0), model_id="another")
    assert "model_id is 'm' and 'another'" in refused(capsys, "detection", "--mem", *mem, "--nonmem", other_model)
    rows = detection_rows(True, 1, count=2)
    rows[3] = detection_rows(True, 1, count=3)[3]
    uneven = write_run(tmp_path, "uneven", rows)
    assert "unequal numbers of images: 2" in refused(capsys, "detection", "--mem", uneven, "--nonmem", *others)
    argv = ("detection", "--mem", *mem, "--nonmem", *others, "--num_images", "5")
    assert "--num_images 5 is more than the runs have: 2" in refused(capsys, *argv)
    mem[0].with_suffix(".config.json").unlink()
    assert "no mem0.config.json beside it" in refused(capsys, "detection", "--mem", mem[0], "--nonmem", *others)
    assert "does not exist" in refused(capsys, "detection", "--mem", tmp_path / "none.jsonl")
    assert "does not give both classes" in refused(capsys, "detection", "--mem", mem[1])


@pytest.mark.parametrize("flags", ["--horizon x", "--horizons 0", "--calibrate 1", "--num_images 0", "--bootstrap 0"])
def test_values_out_of_range_exit_with_code_2(detection_runs, capsys, flags):
    mem, others = detection_runs
    with pytest.raises(SystemExit) as stop:
        eval_mem.main(["detection", "--mem", *map(str, mem), "--nonmem", *map(str, others), *flags.split()])
    assert stop.value.code == 2 and "Traceback" not in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused(detection_runs, tmp_path, capsys):
    mem, others = detection_runs
    (tmp_path / "file").write_text("")
    argv = ["--mem", *mem, "--nonmem", *others, "--bootstrap", "5", "--output", tmp_path / "file" / "sub"]
    assert "choose another --output" in refused(capsys, "detection", *argv)
    assert "choose another --output" in refused(capsys, "report", *mem, "--output", tmp_path / "file" / "r.html")


def test_masks_for_ls_must_be_those_of_the_runs(mitigated, tmp_path, capsys):
    """The run's own mask file is used where it fits and left alone where not; one that is named has to fit."""
    root, runs, descriptor = mitigated
    store = MaskStore({"model_id": "m", "guidance_scale": 7.5, "num_inference_steps": 4})
    for i in range(4):
        store.add(i, f"prompt {i}", make_row(i)["seeds"], torch.ones(2, 1, 4, 4), 8.0)
    (tmp_path / "attn_data").mkdir()
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    results = evaluate("mitigation", *runs, output=tmp_path / "e", sscd=descriptor)
    for row in results:  # a flat mask weighs nothing: LS is S
        assert row["ls"]["value"] == pytest.approx(row["s"]["value"])
    store.settings["model_id"] = "another"
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "ls" not in evaluate("mitigation", *runs, output=tmp_path / "e", sscd=descriptor)[0]
    argv = (*runs, "--sscd", descriptor, "--masks", tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "are of model_id 'another'" in refused(capsys, "mitigation", *argv)
    store.settings["model_id"] = "m"
    del store.masks[3, make_row(3)["seeds"][1]]
    store.save(tmp_path / "attn_data" / "mit_attn_scores.npz")
    assert "has no mask of prompt 3" in refused(capsys, "mitigation", *argv)


def test_faults_of_mitigation_runs(mitigated, tmp_path, capsys):
    root, runs, descriptor = mitigated
    weights = tmp_path / "weights.pt"
    torch.save({"a": torch.ones(2)}, weights)
    for path, message in ((weights, "is not a TorchScript file"), (tmp_path / "none.pt", "does not exist")):
        assert message in refused(capsys, "mitigation", *runs, "--sscd", path)
    rows = [json.loads(line) for line in runs[1].read_text().splitlines()]
    fewer = write_run(tmp_path, "c_pe_mitigation", [r | {"seeds": r["seeds"][:1]} for r in rows], dataset=str(root))
    assert "unequal numbers of images a prompt: 2 and 1" in refused(capsys, "mitigation", runs[0], fewer)
    part = write_run(tmp_path, "d_pe_mitigation", rows[:3], dataset=str(root))
    assert "not of the same prompts and seeds" in refused(capsys, "mitigation", runs[0], part)
    (root / "gt_images" / "2" / "0.png").unlink()
    assert "no images in gt_images/2" in refused(capsys, "mitigation", *runs, "--sscd", descriptor)
    plain = "examples/planted_memorized.jsonl"
    assert "no training images of prompt 0" in refused(capsys, "mitigation", *runs, "--dataset", plain)
    detection = write_run(tmp_path, "det_ours", [make_row(i) for i in range(4)])
    assert "is no result of inference_mem.py" in refused(capsys, "mitigation", detection)


def test_placeholders_and_missing_images_are_named(mitigated, tmp_path, capsys):
    root, runs, descriptor = mitigated
    Image.new("RGB", (16, 16)).save(root / "gt_images" / "1" / "0.png")
    assert "0.png is all black, a placeholder" in refused(capsys, "mitigation", *runs, "--sscd", descriptor)
    next((tmp_path / "images_data" / "b_pe").glob("0_*.png")).unlink()
    assert "is not a readable image" in refused(capsys, "mitigation", runs[2])


def test_faults_of_maps_and_masks_are_named(located, tmp_path, capsys):
    root, path, output = located
    file = tmp_path / "attn_data" / "loc_ours_maps" / "1.npz"
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    assert "1.npz is not a readable npz file of maps" in refused(capsys, "localisation", path)
    file.unlink()
    assert "1.npz does not exist; run detect_mem.py with --store_maps" in refused(capsys, "localisation", path)
    assert "has no true masks" in refused(capsys, "localisation", path, "--masks", tmp_path)
    assert "mask folder" in refused(capsys, "localisation", path, "--masks", tmp_path / "none")


def test_lpips_says_what_is_missing():
    try:
        import lpips  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match="pip install lpips"):
            PerceptualDistance()
