"""Tables of results."""

from memorization.tables import format_table, plain


def test_table_by_hand():
    assert format_table(["a", "bb"], [["x", 0.5]]).splitlines() == ["| a | bb    |", "|---|-------|", "| x | 0.500 |"]


def test_what_json_does_not_have_becomes_none():
    assert plain({"a": [float("nan"), 1.0], "b": (float("inf"), "x")}) == {"a": [None, 1.0], "b": [None, "x"]}
