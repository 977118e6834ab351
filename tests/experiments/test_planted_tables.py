"""Tables of the planted world out of made-up result files: values and intervals, and aims that are reached or not."""

import json

import pytest

from experiments.planted_tables import NOT_MEASURED, SOURCES, table
from planted.making.model_measures import PAIRS
from planted.making.model_tables import FACTS


def entry(value, n=64, prompts=16):
    return {"value": value, "interval": [0.125, 0.875], "n": n, "prompts": prompts}


def measure(value):
    return {"value": value, "low": 0.125, "high": 0.875}


def made(name, tmp_path, content):
    """The table of that name, of a file with this content."""
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(content))
    return table(SOURCES[name][0], path)


def cells(markdown):
    """Rows of a table by their first cell, the headers among them."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line]
    return {row[0]: row[1:] for row in rows}


def report(**values):
    """A report of check_model.py in which every fact is 0.5 but for some, by the last key of their path."""
    found = {}
    for fact in FACTS:
        place = found
        for key in fact.path[:-1]:
            place = place.setdefault(key, {})
        place[fact.path[-1]] = entry(values.get(fact.path[-1], 0.5))
    for row in found["detection_auc"].values():
        row |= {pair: entry(0.6 + k / 100) for k, pair in enumerate(PAIRS) if pair not in row}
    return found


def test_what_is_not_there_is_not_measured_yet(tmp_path):
    for name, (make, _) in SOURCES.items():
        assert table(make, tmp_path / "missing.json") == NOT_MEASURED, name
    assert made("ruler_agreement", tmp_path, {"agreement": []}) == NOT_MEASURED  # of a single descriptor
    assert made("dose_mitigations", tmp_path, {"mitigations": []}) == NOT_MEASURED


@pytest.mark.parametrize(
    ("key", "value", "is_reached"),
    [
        ("verbatim_copied", 0.9, True),
        ("verbatim_copied", 0.899, False),
        ("false_copies_nonmemorized", 0.009, True),
        ("false_copies_nonmemorized", 0.01, False),
        ("all", 0.8, True),
        ("all", 0.79, False),
        ("bright ending", 0.75, True),
        ("bright ending", None, False),
    ],
)
def test_whether_an_aim_is_reached_follows_from_the_number(key, value, is_reached, tmp_path):
    rows = cells(made("bundled_model", tmp_path, report(**{key: value})))
    aim, text, count = rows[next(f.text for f in FACTS if f.path[-1] == key)]
    number = "-" if value is None else f"{value:.3f} [0.125, 0.875]"
    assert text == (number if is_reached else f"**not reached**: {number}")
    assert aim.startswith(("at least", "below")) and count == "64 of 16"


def test_what_was_not_aimed_at_is_never_missed(tmp_path):
    rows = cells(made("bundled_model", tmp_path, report(false_copies_near_miss=0.9)))
    assert rows["near misses give one"] == ["", "0.900 [0.125, 0.875]", "64 of 16"]


def test_detection_has_a_column_for_each_pair(tmp_path):
    rows = cells(made("bundled_detection", tmp_path, report(**{"verbatim vs nonmemorized": 0.99})))
    headers = ["verbatim, unseen", "template, unseen", "verbatim, near miss", "template, near miss"]
    assert rows["AUC per image"] == headers
    assert [text[:5] for text in rows["D, T=1"]] == ["0.990", "0.610", "0.620", "0.630"]


def test_maps_come_the_best_first(tmp_path):
    maps = {"bright ending": entry(0.7), "undefined": entry(None), "best": entry(0.9)}
    rows = cells(made("bundled_localisation", tmp_path, {"localisation_pixel_auroc": maps}))
    assert [name for name in rows if "---" not in name] == ["map", "best", "bright ending", "undefined"]
    assert rows["undefined"] == ["-"]


def evaluators():
    """A report as planted/making/evaluators/measure.py writes it."""
    keys = ("micro_average_precision", "precision_at_0.5", "recall_at_0.5", "threshold_of_precision_0.9")
    numbers = {key: 0.1 * k for k, key in enumerate((*keys, "recall_at_that_threshold"), 1)}
    spread = {"mean": 0.25, "max": 0.5}
    copies = {
        "retrieval": {"all": numbers, "without objects": {key: 2 * v for key, v in numbers.items()}},
        "partial copies": {"50% copied": {"mean": 0.4, "auc": 0.95}, "unrelated": spread},
        "planted, to each other": spread,
    }
    words = {"top1": 0.9, "chance": 0.01, "object": 0.95, "color": 0.97}
    clutter = {"top1": 0.8, "chance": 0.02, "color": 0.99, "color_chance": 0.125, "kind_of_thing": 0.7}
    sharp = {"objects": words, "clutter": clutter | {"kind_chance": 0.25}}
    blurred = {part: {key: value / 2 for key, value in found.items()} for part, found in sharp.items()}
    pairs = {"planted_mean": 0.61, "fresh_mean": 0.6, "difference": 0.01, "standard_error": 0.02}
    clip = {"blur_0": sharp, "blur_1": blurred, "planted_pairs": pairs}
    return {"seed": 1, "copy_descriptor": {"wen": copies}, "clip": clip}


def test_evaluators_are_shown_with_what_they_made_of_generated_images_where_it_was_measured(tmp_path):
    content = evaluators()
    rows = cells(made("bundled_evaluators", tmp_path, content))
    assert rows["recall at 0.5"] == ["0.300", "0.600"]
    assert rows["50% copied of the picture: mean similarity (AUC)"] == ["", "0.400 (0.950)"]
    assert not any(name.startswith("generated") for name in rows)
    lower, upper = {"mean": 0.9, "min": 0.7}, {"mean": 0.1, "max": 0.3}
    names = {"verbatim": lower, "template": lower, "planted, to others": upper, "unseen, to planted": upper}
    content["copy_descriptor"]["wen"]["generated"] = names
    rows = cells(made("bundled_evaluators", tmp_path, content))
    assert rows["generated, unseen, to planted: mean (highest)"] == ["", "0.100 (0.300)"]


def test_the_clip_is_shown_with_chance_and_blur(tmp_path):
    found = made("bundled_clip", tmp_path, evaluators())
    assert cells(found)["clutter, its colour"] == ["0.990", "0.495", "0.125"]
    assert cells(found)["objects, the object of it"] == ["0.950", "0.475", ""]
    assert found.endswith("difference 0.010, standard error 0.020.")


def test_doses_are_shown_against_unseen_prompts_and_by_strength(tmp_path):
    head = {"kind": "verbatim", "dose": 64}
    copied = {"copied": measure(0.5) | {"count": 16, "of": 32}}
    scores = [
        head | {"negative_set": name, "score": "D, T=1", "auc": measure(value)}
        for name, value in (("planted_nonmemorized", 0.75), ("planted_near_miss", 0.25))
    ]
    maps = [{"kind": "template", "dose": 64, "map": "bright ending", "auroc": measure(0.625)}]
    mitigated = [head | copied | {"method": "pe", "strength": strength} for strength in (1.0, 0.5)]
    copies = [head | copied | {"ruler": "pixels"}]
    content = {"copies": copies, "scores": scores, "maps": maps, "mitigations": mitigated}
    assert cells(made("dose_copies", tmp_path, content))["pixels"] == ["verbatim", "0.50 [0.12, 0.88], 16 of 32"]
    assert cells(made("dose_scores", tmp_path, content))["D, T=1"] == ["verbatim", "0.75 [0.12, 0.88]"]
    assert cells(made("dose_maps", tmp_path, content))["bright ending"] == ["template", "0.62 [0.12, 0.88]"]
    assert {"pe 1", "pe 0.5"} < cells(made("dose_mitigations", tmp_path, content)).keys()


def test_each_pair_of_three_descriptors_is_named(tmp_path):
    head = {"kind": "verbatim", "similarity": "own", "images": 64, "rank_correlation": measure(0.5)}
    pairs = [head | {"pair": pair} for pair in (["a", "b"], ["a", "c"])]
    assert {"a and b", "a and c"} < cells(made("ruler_agreement", tmp_path, {"agreement": pairs})).keys()
    assert "descriptors" not in cells(made("ruler_agreement", tmp_path, {"agreement": pairs[:1]}))
