"""A screen evaluated from its columns: the numbers of the same rows as JSON lines, in little memory."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from helpers.eval_runs import MODEL, make_row, write_run
from memorization import evaluate
from memorization.audit.screening import decide_captions
from memorization.evaluation.classes import Part, View, classes_of, gather
from memorization.evaluation.thresholds import calibrate
from memorization.files.column_rows import SCORE, ColumnRows
from memorization.files.columns import ColumnParts
from memorization.finished_runs import Run, read_run
from memorization.seeds import image_seeds

SHARED = {"seed_mode": "shared", "early_exit": 1}


def write_both(folder, name, scores):
    """A screen of some scores, (prompts, images), as columns and as JSON lines; some prompts occur twice."""
    scores = scores.astype(np.float32)
    count, images = scores.shape
    prompts = [(10 + k, f"{name} “{k % (count - 2)}”") for k in range(count)]
    seeds = image_seeds(0, 0, images)
    rows = [
        make_row(index, prompt=words, seeds=seeds) | {SCORE: values[:, None].tolist()}
        for (index, words), values in zip(prompts, scores, strict=True)
    ]
    settings = SHARED | {"num_images_per_prompt": images, "dataset": f"{name}.jsonl"}
    lines = write_run(folder / "lines", name, rows, **settings)
    parts, path = ColumnParts(folder / "parts" / name, images), folder / "columns" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    cuts = [(0, 7), (7, count)]
    for start, end in cuts:
        parts.write((start, end), prompts[start:end], scores[start:end])
    parts.merge(path, cuts)
    path.with_suffix(".config.json").write_text(lines.with_suffix(".config.json").read_text())
    return lines, path


@pytest.fixture
def both(tmp_path):
    """Captions, some of which score high, and controls, each as JSON lines and as columns."""
    rng = np.random.default_rng(0)
    scores = rng.normal(2, 0.3, (40, 9)) + np.where(np.arange(40) < 5, 4, 0)[:, None]
    captions = write_both(tmp_path, "captions", scores)
    controls = write_both(tmp_path, "controls", rng.normal(2, 0.3, (300, 9)))
    return list(zip(captions, controls, strict=True))


def test_decisions_of_columns_are_those_of_lines(both, tmp_path):
    saved = []
    for place, (captions, controls) in enumerate(both):
        section = evaluate("decisions", captions, controls=controls)
        found = section.save(tmp_path / f"{place}")
        assert json.loads(found[1].read_text()) == list(section.results)
        saved.append((found[0].read_text().replace(str(controls.parent), ""), found[1].read_text()))
    assert saved[0][1] == saved[1][1] and saved[0][0].replace("jsonl", "parquet") == saved[1][0]
    assert sum(line["memorized"] for line in json.loads(saved[0][1])) == 5


def test_several_screens_are_decided_together(both):
    (lines, of_lines), (columns, of_columns) = both
    found = [
        evaluate("decisions", [runs, other], controls=of)
        for runs, other, of in ((lines, lines, of_lines), (columns, lines, of_columns))
    ]
    assert list(found[0].results) == list(found[1].results) and len(found[0].results) == 80


def test_items_of_columns_are_those_of_lines(both):
    for view in (View(SCORE, 1), View(SCORE, None, "prompt"), View(SCORE, 1, "image", 3), View(SCORE, 1, "prompt", 3)):
        pairs = [classes_of([read_run(run)], [read_run(other)]).pairs() for run, other in both]
        items = [gather(pair, view) for (pair,) in pairs]
        for name in ("scores", "labels", "prompts", "runs"):
            assert np.array_equal(*(getattr(some, name) for some in items)), name
        assert (items[0].count_prompts(True), items[0].count_prompts(False)) == (38, 298)
    results = [evaluate("detection", run, nonmem=other).results for run, other in both]
    assert results[0] == results[1]


def test_calibration_and_an_audits_screen_take_columns_as_lines(both):
    runs = [(read_run(captions), read_run(controls)) for captions, controls in both]
    lines, columns = (calibrate([Part(controls, controls.rows)], SCORE, 1, 0.01) for _, controls in runs)
    assert lines == columns and lines.num_negatives == 298
    lines, columns = (decide_captions(captions, controls, SCORE, 0.05, 6, 3) for captions, controls in runs)
    assert lines.kinds == columns.kinds and len(lines.flagged) >= 5 and len(lines.sampled) == 6
    assert lines.num_unflagged == columns.num_unflagged == 40 - len(lines.flagged)


class Numbered:
    """Words that take no memory."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, place):
        if place >= self.count:
            raise IndexError
        return f"prompt {place}"


def test_a_prompt_of_a_screen_takes_tens_of_bytes():
    """A dict of each would take hundreds, besides its words."""

    def screen(name, count):
        scores = np.random.default_rng(count).normal(2, 0.3, (count, 1)).astype(np.float32)
        rows = ColumnRows(np.arange(count), Numbered(count), scores, [0])
        return Run(Path(f"{name}.parquet"), rows, MODEL | SHARED, {})

    captions, controls = screen("captions", 20_000), screen("controls", 1000)
    for look in (
        lambda: decide_captions(captions, controls, SCORE, 0.05, 10, 0),
        lambda: gather(classes_of([captions], [controls]).pairs()[0], View(SCORE, 1)),
    ):
        tracemalloc.start()
        look()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 200 * 20_000
