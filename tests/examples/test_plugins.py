"""A detector and a mitigation from outside the tree appear wherever the built-in ones do."""

import json
import shutil
import subprocess
import sys

import pytest

import detect_mem
from helpers.scale_runs import environment
from memorization.bundled import ROOT
from memorization.plugins import load_plugins

DETECTOR, MITIGATION = ROOT / "examples" / "own_detector.py", ROOT / "examples" / "own_mitigation.py"
FEW = ["--num_inference_steps", "2", "--num_images_per_prompt", "1"]


@pytest.fixture
def script(tmp_path, model_folder):
    """Run a script in a process of its own, as registries are the process's; returns what it printed."""

    def run(name, *argv, model=True):
        folder = ["--model_id", str(model_folder), "--output_dir", str(tmp_path)] if model else []
        command = [sys.executable, str(ROOT / f"{name}.py"), *map(str, argv), *folder]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_an_own_detector_is_in_rows_tables_cost_figure_and_report(script, tmp_path):
    own = shutil.copy(DETECTOR, tmp_path / "mine.py")
    prompts = ["--dataset", "planted_prompts.jsonl", "--start", "30", "--end", "34"]
    told = script("detect_mem", "--plugin", own, "--scores", "top_share", *prompts, *FEW)
    assert "| share of the top tenth | - " in told
    rows = tmp_path / "det_outputs" / "test_ours.jsonl"
    assert all(0 < json.loads(line)["top_share"][0] <= 1 for line in rows.read_text().splitlines())
    some = ["--plugin", own]
    script("eval_mem", "detection", "--mem", rows, "--output", tmp_path / "e", *some, model=False)
    assert (tmp_path / "e" / "cost.png").exists()
    assert "share of the top tenth" in (tmp_path / "e" / "detection.md").read_text()
    script("eval_mem", "report", rows, "--output", tmp_path / "r.html", *some, model=False)
    assert '<th scope="col">share of the top tenth</th>' in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_an_own_mitigation_is_in_rows_tables_and_report(script, tmp_path):
    own = shutil.copy(MITIGATION, tmp_path / "mine.py")
    script("inference_mem", "--end", "2", *FEW)
    told = script("inference_mem", "--plugin", own, "--method", "fade", "--strength", "0.5", "--end", "2", *FEW)
    assert "method fade" in told
    rows = sorted((tmp_path / "det_outputs").glob("*_mitigation.jsonl"))
    script(
        "eval_mem", "report", *rows, "--plugin", own, "--bootstrap", "5", "--output", tmp_path / "r.html", model=False
    )
    assert "<td>fade</td><td>0.5</td>" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "| fade " in script("inference_mem", "--plugin", own, "--list_methods", model=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ("1 / 0", "fails: ZeroDivisionError: division by zero"),
        (
            "from memorization.detectors.base import detector\n@detector('d', keys={}, source='x')\ndef d(t): ...",
            "docstring",
        ),
        (DETECTOR.read_text().replace('"top_share", keys', '"sharpness", keys'), "two detectors called 'sharpness'"),
        (DETECTOR.read_text().replace('{"top_share": "', '{"sharpness": "'), "gives the score 'sharpness'"),
    ],
)
def test_a_plug_in_that_cannot_be_used_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "plug.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        detect_mem.main(["--plugin", str(path)])
    told = capsys.readouterr().err
    assert stop.value.code == 2 and message in told and str(path) in told and told.count("\n") == 1


def test_the_examples_are_short_and_load_twice():
    assert all(len(path.read_text().splitlines()) < 40 for path in (DETECTOR, MITIGATION))
    load_plugins([])
    load_plugins([])
