"""The quickstart in small: one process, its pictures and tables, and that it goes on without generating again."""

import subprocess
import sys

import pytest
from PIL import Image

from helpers.scale_runs import environment
from memorization.bundled import ROOT


@pytest.fixture
def quickstart(tmp_path, model_folder):
    def run():
        few = ["--num_inference_steps", "2", "--model_id", str(model_folder)]
        command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), str(tmp_path / "out"), *few]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        return done

    return run


def test_pictures_and_tables_are_there_and_a_second_call_generates_nothing(quickstart, tmp_path):
    first = quickstart()
    for name in ("detection", "scores", "mitigation"):
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 300 and len(picture.convert("L").getcolors()) > 50
        assert f"out/{name}.png" in first.stdout
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "| prss_be_prmask" in page and "AUC per image" in page and " of 12 " in page
    assert len(first.stdout.splitlines()) < 30  # what it does, one table, where things are
    bars = {line.split(":")[0].strip() for line in first.stderr.replace("\r", "\n").splitlines() if "it/s" in line}
    assert not bars  # of other libraries; ours count prompts
    rows = tmp_path / "out" / "det_outputs" / "quickstart_ours.jsonl"
    before, told = rows.read_bytes(), quickstart().stdout
    assert told == first.stdout and rows.read_bytes() == before
