"""The tables of what a screen takes: from kept numbers, or the line that they are not measured yet."""

from experiments import screen_scale
from experiments.planted_tables import NOT_MEASURED

MEASURE = {"value": 0.9, "low": 0.8, "high": 0.95}
SCALE = {
    "prompts": 10_000, "peak": 2**29, "first_part": 20.0, "first_part_after_kill": 21.5, "parts": 10,
    "parts_at_kill": 5, "same_bytes": True,
}  # fmt: skip
SPEED = {
    "prompts": 6, "rounds": 1, "seconds": {"own": 0.2, "shared": 0.1}, "ratio": 0.5,
    "evaluations": {"own": 2.0, "shared": 7 / 6},
}  # fmt: skip
NOISE = {"negative_set": "unseen", "images": 4, "prompts": 50, "own": MEASURE, "shared": MEASURE, "difference": MEASURE}


def test_tables_hold_what_was_measured_and_say_what_was_not(tmp_path, monkeypatch):
    path = tmp_path / "screen.json"
    monkeypatch.setattr(screen_scale, "RESULTS", path)
    assert {make() for make in screen_scale.TABLES.values()} == {NOT_MEASURED}
    for part, found in (("speed", SPEED), ("noise", [NOISE])):
        screen_scale.add_result(path, part, found)
    for count in (10_000, 200, 10_000):  # measured again
        screen_scale.add_scale(path, SCALE | {"prompts": count})
    assert [r["prompts"] for r in screen_scale.kept_results(path)["scale"]] == [200, 10_000]
    scale, speed, noise = (make() for make in screen_scale.TABLES.values())
    assert "| 10000   | 512 MiB     | 20.0                | 21.5, of 5 of 10 | yes        |" in scale
    assert "0.50 times the time" in speed and "1.167" in speed
    assert "0.900 [0.800, 0.950]" in noise
