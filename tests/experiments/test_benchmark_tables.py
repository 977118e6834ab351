"""The page of a benchmark."""

import json

from experiments.benchmark_tables import page


def test_what_is_not_defined_is_a_dash_on_the_page(tmp_path):
    """As the area of a method with one strength is, and SSCD where all images are black."""
    one, nothing = ({"value": v, "low": v, "high": v} for v in (0.5, None))
    row = {"method": "gni", "strength": 1.0, "kind": "all", "evals": 6.0, "copied": one, "sscd": nothing, "clip": one}
    (tmp_path / "mitigation.json").write_text(json.dumps([row | {"area": nothing}]))
    cells = next(line for line in page(tmp_path, 50).splitlines() if line.startswith("| gni")).split("|")
    assert [c.strip() for c in cells[2:7]] == ["1", "0.50 [0.50, 0.50]", "-", "0.50 [0.50, 0.50]", "-"]
