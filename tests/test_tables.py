"""Tables of results."""

import math

from memorization.evaluation.statistics import interval_text
from memorization.tables import format_table, parse_results, plain


def test_table_by_hand():
    assert format_table(["a", "bb"], [["x", 0.5]]).splitlines() == ["| a | bb    |", "|---|-------|", "| x | 0.500 |"]


def test_what_json_does_not_have_becomes_none():
    assert plain({"a": [float("nan"), 1.0], "b": (float("inf"), "x")}) == {"a": [None, 1.0], "b": [None, "x"]}


def test_only_the_numbers_of_a_measure_come_back_as_nan():
    results = parse_results('{"T": null, "area": {"value": null, "low": null, "high": 1}}')
    assert results["T"] is None and math.isnan(results["area"]["value"]) and results["area"]["high"] == 1
    assert interval_text(results["area"]) == "-"
