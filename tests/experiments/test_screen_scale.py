"""The tables of what a screen takes: from kept numbers, or the line that they are not measured yet."""

import time

import torch

from experiments import screen_network, screen_scale
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

NETWORK = {"batch_size": 16, "prompts": 4, "seconds": 40.0, "unet": 36.0, "text_encoder": 2.0}


def test_seconds_of_a_module_are_those_of_its_calls_alone():
    class Slow(torch.nn.Module):
        def forward(self):
            time.sleep(0.02)

    module = Slow()
    with screen_network.seconds_inside(module) as seconds:
        module()
        time.sleep(0.1)
        module()
    module()
    assert len(seconds) == 2 and all(0.02 <= taken < 0.1 for taken in seconds)


def test_tables_hold_what_was_measured_and_say_what_was_not(tmp_path, monkeypatch):
    path = tmp_path / "screen.json"
    monkeypatch.setattr(screen_scale, "RESULTS", path)
    assert {make() for make in screen_scale.TABLES.values()} == {NOT_MEASURED}
    for part, found in (("speed", SPEED), ("network", [NETWORK]), ("noise", [NOISE])):
        screen_scale.add_result(path, part, found)
    for count in (10_000, 200, 10_000):  # measured again
        screen_scale.add_scale(path, SCALE | {"prompts": count})
    assert [r["prompts"] for r in screen_scale.kept_results(path)["scale"]] == [200, 10_000]
    scale, speed, network, noise = (make() for make in screen_scale.TABLES.values())
    assert "| 10000   | 512 MiB     | 20.0                | 21.5, of 5 of 10 | yes        |" in scale
    assert "0.50 times the time" in speed and "1.167" in speed
    assert "0.900 [0.800, 0.950]" in noise
    cells = [cell.strip() for cell in network.splitlines()[2].split("|")[1:-1]]
    assert cells == ["16", "4", "10.000", "9.000", "0.500", "0.5000", "10.00 %", "5.00 %"]
