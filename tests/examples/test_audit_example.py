"""The audit's example in small: a step on the tiny model, both audits in this process, and what it says of them."""

import importlib.util
import json
import runpy
import sys

import pytest

from memorization.bundled import ROOT
from memorization.data.prompts import load_prompts
from memorization.errors import InputError


@pytest.fixture
def module():
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("audit_example", ROOT / "examples" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def commands(module, monkeypatch):
    """The words of its commands, which run here."""
    commands = []

    def run_here(some, folder):
        for words in some.values():
            commands.append([str(word) for word in words])
            monkeypatch.setattr(sys, "argv", commands[-1])
            runpy.run_path(str(ROOT / words[0]), run_name="__main__")

    monkeypatch.setattr(module, "run_at_once", run_here)
    monkeypatch.setattr(module, "NUM_IMAGES", 1)
    monkeypatch.setattr(module, "BATCH_SIZE", 2)
    return commands


def test_a_model_is_tuned_on_repeated_pictures_and_audited_before_and_after(
    module, commands, model_folder, tmp_path, capsys
):
    few = ["--steps", "1", "--num_inference_steps", "1", "--model_id", str(model_folder)]
    module.main([str(tmp_path), *few])
    folder = tmp_path / "seed_0"
    repeats = [record.repeats for record in load_prompts(str(folder / "pictures"))]
    assert sorted(repeats) == [1] * (module.TRAINED - module.REPEATED) + [module.REPEATS] * module.REPEATED
    held_out = {record.prompt for record in load_prompts(str(folder / "held_out"))}
    assert not held_out & {record.prompt for record in load_prompts(str(folder / "pictures"))}
    page = " ".join((ROOT / "docs" / "audit.md").read_text().split())
    assert f"at its rate of {module.FDR:g}" in page
    assert f"{module.TRAINED} captioned pictures" in page and f"`{module.REPEATS}_repeated`" in page
    assert f"{module.REPEATED} of them repeated {module.REPEATS} times" in page
    assert "--base_model_id" in commands[1] and "--base_model_id" not in commands[2]
    told = capsys.readouterr().out
    for name in ("tuned", "untouched"):
        verdict = json.loads((folder / name / "audit.json").read_text())["verdict"]
        assert f"\n{name}: {verdict['text']}" in told and str(folder / name / "report.html") in told
        assert verdict["num_captions"] == module.TRAINED


def test_what_fails_behind_another_command_says_where_its_reason_is(module, tmp_path):
    works, fails = (tmp_path / f"{name}.py" for name in ("works", "fails"))
    works.write_text("from pathlib import Path\nPath(__file__).with_suffix('.done').touch()\n")
    fails.write_text("raise SystemExit('no such model')\n")
    with pytest.raises(InputError, match=r"untouched ended with exit code 1, see .*untouched\.log; the same command"):
        module.run_at_once({"tuned": [works], "untouched": [fails]}, tmp_path)
    assert (tmp_path / "untouched.log").read_text() == "no such model\n" and works.with_suffix(".done").exists()
