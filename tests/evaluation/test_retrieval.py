"""Generations beside an indexed training set: numbers against plain computations, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import eval_mem
from helpers.eval_runs import find, make_row, quarters, write_descriptor, write_ground_truth, write_images, write_run
from memorization.bundled import GROUND_TRUTH
from memorization.evaluation.retrieval_summary import Resamples, percentile, rank_correlation, weighted_deviation
from memorization.evaluation.statistics import USUAL
from memorization.files.whole import save_png
from memorization.similarity import neighbourhoods
from memorization.similarity.complexity import complexity, grey_entropy, total_variation
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.neighbourhoods import are_covered, ball_edges
from tools import index_training_set

COPY = "planted_evaluators/copy_descriptor.torchscript.pt"
COUNT = 6  # training pictures


@pytest.fixture
def world(tmp_path):
    """An index of six pictures of which two are the same, and a run that copies half of each prompt's images."""
    data = tmp_path / "data"
    data.mkdir()
    for k in range(COUNT):
        save_png(data / f"{k}.png", quarters(0 if k == COUNT - 1 else k))
        (data / f"{k}.txt").write_text(f"prompt {k}")
    rows = [make_row(k) for k in range(COUNT - 1)]
    for row in rows:
        write_images(tmp_path, "mem_ours", row, [quarters(row["index"]), quarters(100 + row["index"])])
    run = write_run(tmp_path, "mem_ours", rows, dataset=str(data))
    sscd, index = write_descriptor(tmp_path), tmp_path / "index"
    argv = ["--training_data", data, "--sscd", sscd, "--output", index, "--device", "cpu"]
    index_training_set.main([str(word) for word in argv])
    return run, index, sscd


def retrieve(output, *argv):
    eval_mem.main(["retrieval", *map(str, argv), "--bootstrap", "50", "--gallery", "3", "--output", str(output)])
    lines = [json.loads(line) for line in (output / "per_image.jsonl").read_text().splitlines()]
    return json.loads((output / "retrieval.json").read_text()), lines


def test_numbers_are_those_of_the_plain_similarity_matrix(world, tmp_path, capsys):
    run, index, sscd = world
    results, lines = retrieve(tmp_path / "e", run, "--index", index)
    descriptor = CopyDescriptor(sscd)
    training = descriptor([quarters(0 if k == COUNT - 1 else k) for k in range(COUNT)]).numpy()
    generations = descriptor([quarters(k + shift) for k in range(COUNT - 1) for shift in (0, 100)]).numpy()
    cosines = (generations @ training.T).max(1)
    assert [line["similarity"] for line in lines] == pytest.approx(cosines.tolist(), abs=2e-3)
    (found,), (background,) = (find(results["similarity"], is_background=b) for b in (False, True))
    assert found["pictures"] == 10 and found["prompts"] == 5
    assert found["mean"]["value"] == pytest.approx(cosines.mean(), abs=2e-3)
    assert found["sd"]["value"] == pytest.approx(cosines.std(), abs=2e-3)
    assert found["p90"]["value"] == pytest.approx(np.quantile(cosines, 0.9, method="inverted_cdf"), abs=2e-3)
    assert found["above_cut"]["count"] == (cosines > 0.5).sum() and found["above_cut"]["of"] == 10
    others = training @ training.T - 9 * np.eye(COUNT)
    assert background["mean"]["value"] == pytest.approx(others.max(1).mean(), abs=2e-3)
    copied = [line for line in lines[::2] if line["caption"] == line["prompt"]]
    assert len(copied) >= 4 and all(line["similarity"] == pytest.approx(1, abs=2e-3) for line in lines[::2])
    assert len(lines[0]["rows"]) == COUNT  # ten nearest, of as many as there are
    for name in ("similarity", "complexity", "duplicated", "gallery_0"):
        assert Image.open(tmp_path / "e" / f"{name}.png").width > 100
    assert "preprocessing wen" in (tmp_path / "e" / "retrieval.md").read_text()


def test_matches_of_duplicated_pictures_stand_apart(world, tmp_path):
    run, index, _ = world
    results, lines = retrieve(tmp_path / "e", run, "--index", index)
    expected = [line["similarity"] for line in lines if line["index"] in (0, COUNT - 1)]
    (duplicated,), (single,) = (find(results["duplicates"], match=m) for m in ("duplicated", "single"))
    assert duplicated["pictures"] == len(expected) >= 1 and single["pictures"] == 10 - len(expected)
    assert duplicated["mean"]["value"] == pytest.approx(np.mean(expected))


def test_a_folder_of_the_training_pictures_themselves_is_all_copies(tmp_path):
    """The bundled ground truth, as generations of itself and as CLIP's training pairs."""
    index = tmp_path / "index"
    root = write_ground_truth(tmp_path)
    index_training_set.main(["--training_data", str(GROUND_TRUTH), "--sscd", COPY, "--output", str(index)])
    argv = [GROUND_TRUTH, "--controls", root, "--index", index, "--reference_model", "planted_evaluators/planted_clip"]
    results, lines = retrieve(tmp_path / "e", *argv)
    own = [line for line in lines if line["of"] == GROUND_TRUTH.name]
    assert all(line["similarity"] == pytest.approx(1, abs=2e-3) and line["caption"] == line["prompt"] for line in own)
    assert {r["of"]: r["is_control"] for r in results["similarity"]}["tiny_groundtruth"] is True
    assert {r["of"] for r in results["complexity"]} == {GROUND_TRUTH.name}
    assert all(r["rho"]["value"] is None for r in results["complexity"])  # nothing but rounding varies
    clip = {r["of"]: r["clip"]["value"] for r in results["clip"]}
    assert clip[GROUND_TRUTH.name] == pytest.approx(clip["training pictures and their captions"], abs=1e-5)


def test_chunks_and_a_drawn_background(world, tmp_path):
    run, index, _ = world
    options = ("--similarity", "splitloss", "--chunks", 4, "--background", 3)
    results, lines = retrieve(tmp_path / "e", run, "--index", index, *options)
    assert find(results["similarity"], is_background=True)[0]["pictures"] == 3
    text = (tmp_path / "e" / "retrieval.md").read_text()
    assert "splitloss of 4 chunks" in text and "3 drawn of 6" in text
    assert all(line["similarity"] < 1 for line in lines)


def balls(points, others, neighbours=3):
    """Share of points within the distance of another set's points to their third nearest other one, by loops."""
    reach = [sorted(np.linalg.norm(o - p) for p in others)[neighbours] for o in others]
    return np.mean([any(np.linalg.norm(p - o) <= r for o, r in zip(others, reach, strict=True)) for p in points])


def apart(generations, training):
    """MMD times 1000 over pairs of other captions, by loops."""
    a, b = ([(f"prompt {k // n}", v) for k, v in enumerate(some)] for n, some in ((2, generations), (1, training)))

    def mean(x, y):
        return np.mean([np.exp(-np.square(v - w).sum() / 200) for p, v in x for q, w in y if p != q])

    return 1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b))


def test_precision_recall_and_mmd_of_sets(world, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbourhoods, "ROWS", 4)
    run, index, sscd = world
    results, _ = retrieve(tmp_path / "e", run, "--index", index)
    (found,) = results["sets"]
    descriptor = CopyDescriptor(sscd)
    training = descriptor([quarters(0 if k == COUNT - 1 else k) for k in range(COUNT)]).numpy()
    generations = descriptor([quarters(k + shift) for k in range(COUNT - 1) for shift in (0, 100)]).numpy()
    assert found["precision"]["value"] == pytest.approx(balls(generations, training))
    assert found["recall"]["value"] == pytest.approx(balls(training, generations))
    assert found["precision"]["low"] < found["precision"]["value"] and found["recall"]["of"] == COUNT
    assert found["mmd"]["value"] == pytest.approx(apart(generations, training), abs=0.02) and "fid" not in found
    assert "Sets as wholes" in (tmp_path / "e" / "retrieval.md").read_text()


def test_precision_and_recall_are_those_of_torch_fidelity():
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    import torch

    rng = np.random.default_rng(0)
    a, b = (some / np.linalg.norm(some, axis=1, keepdims=True) for some in rng.normal(size=(2, 60, 4)))
    b[:, 0] += 0.5
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    expected = prc.prc_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), verbose=False)
    precision, recall = (are_covered(x, y, ball_edges(y)).mean() for x, y in ((a, b), (b, a)))
    assert (precision, recall) == pytest.approx((expected["precision"], expected["recall"]))
    assert 0 < recall < 1 and 0 < precision < 1
    with pytest.raises(ValueError, match="3 pictures have no 3 others"):
        ball_edges(a[:3])


def test_fid_is_asked_of_the_drawn_training_pictures(world, tmp_path, monkeypatch):
    seen = {}

    class Counted:
        description = "counted"

        def __init__(self, device):
            pass

        def __call__(self, sets, ordinary):
            seen["ordinary"] = [image.shape for image in ordinary]
            return {name: {"fid": float(sum(map(len, images))), "kid": 0.5} for name, images in sets.items()}

    monkeypatch.setattr("memorization.similarity.measure.InceptionDistances", Counted)
    run, index, _ = world
    results, _ = retrieve(tmp_path / "e", run, "--index", index, "--fid", "--background", 4)
    assert len(seen["ordinary"]) == 4 and results["sets"][0]["fid"] == 10
    assert "FID and KID: counted" in (tmp_path / "e" / "retrieval.md").read_text()


def test_resampled_statistics_are_those_of_repeated_items():
    rng = np.random.default_rng(0)
    values, weights = np.sort(rng.normal(size=20)), rng.integers(0, 4, 20)
    repeated = np.repeat(values, weights)
    for percent in (75, 90, 95):
        expected = np.quantile(repeated, percent / 100, method="inverted_cdf")
        assert percentile(percent)(values, weights.astype(float)) == expected
    assert weighted_deviation(values, weights) == pytest.approx(repeated.std())
    measure = Resamples(values, np.arange(20) // 2, USUAL).measure(percentile(90))
    assert measure["low"] <= measure["value"] <= measure["high"]


def test_rank_correlation_has_p_value_and_interval():
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    found, expected = rank_correlation(a, b), stats.spearmanr(a, b)
    assert (found["rho"]["value"], found["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert found["rho"]["low"] < expected.statistic < found["rho"]["high"] < 1
    assert np.isnan(rank_correlation(a, np.ones(40) + 1e-5 * b)["p"])


def test_complexity_is_that_of_loops_and_orders_pictures():
    grey = np.random.default_rng(0).integers(0, 4, (5, 7), dtype=np.uint8)
    shares = [(grey == level).mean() for level in range(4)]
    assert grey_entropy(grey) == pytest.approx(-sum(p * np.log2(p) for p in shares if p))
    across = np.mean([abs(float(grey[y, x + 1]) - grey[y, x]) for y in range(5) for x in range(6)])
    down = np.mean([abs(float(grey[y + 1, x]) - grey[y, x]) for y in range(4) for x in range(7)])
    assert total_variation(grey.astype(float)) == pytest.approx(across + down)
    plain, noise = np.full((40, 60, 3), 90, np.uint8), np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    simple, complex_ = complexity(plain), complexity(noise)
    assert simple["entropy"] == 0 and all(simple[name] < complex_[name] for name in simple)
    assert complex_["mixed"] == pytest.approx(complex_["entropy"] * complex_["jpeg_size"] ** 0.5)


def refused(capsys, *argv):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        eval_mem.main(["retrieval", *map(str, argv)])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(lines) == 1
    return lines[0]


def test_what_does_not_compare_is_refused_in_one_line(world, tmp_path, capsys):
    run, index, sscd = world
    assert "are called mem_ours" in refused(capsys, run, "--controls", run, "--index", index)
    assert "is no index" in refused(capsys, run, "--index", tmp_path / "nowhere")
    assert "does not exist" in refused(capsys, tmp_path / "nowhere.jsonl", "--index", index)
    other = refused(capsys, run, "--index", index, "--sscd_preprocessing", "official_288")
    assert "preprocessing 'wen' -> 'official_288'" in other and "do not compare" in other
    assert "checkpoint" in refused(capsys, run, "--index", index, "--sscd", GROUND_TRUTH.parent / COPY)
    assert "cannot be cut into 5" in refused(capsys, run, "--index", index, "--similarity", "splitloss", "--chunks", 5)
    assert "searches by dot alone" in refused(capsys, run, "--index", index, "--faiss", "--similarity", "splitloss")
    header = json.loads((index / "index.json").read_text()) | {"unreadable": None}
    (index / "index.json").write_text(json.dumps(header))
    assert "is not finished" in refused(capsys, run, "--index", index)
