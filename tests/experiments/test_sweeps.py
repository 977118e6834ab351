"""The sweeps and the benchmark as a user types them, on a tiny model with few steps; each run starts Python anew, so
slow."""

import os
import subprocess
import sys

import pytest

import inference_mem
from experiments.runs import Entry, parse_entries, sweep_entries
from memorization.bundled import CLIP, COPY_DESCRIPTOR, ROOT
from memorization.errors import InputError
from memorization.mitigations.base import MITIGATIONS
from memorization.runs.mitigation_settings import MitigationSettings

EVALUATE = f"--sscd {COPY_DESCRIPTOR} --reference_model {CLIP}"


def run(experiment, output, *argv):
    """Run an experiment to its end."""
    command = [sys.executable, "-m", f"experiments.{experiment}", "--output", output, *argv, "--num_inference_steps", 3]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500
    )


@pytest.mark.parametrize("bundled", [True, False])
def test_every_entry_of_a_sweep_is_read_back_and_asks_for_its_method(bundled):
    entries = sweep_entries(MITIGATIONS.values(), bundled)
    assert {e.method for e in entries} == set(MITIGATIONS)
    assert {e.name for e in entries} >= {"pe", "pe_be", "prss", "prss_be", "prss_prmask", "cfg_delay_dynamic"}
    for entry in entries:
        assert parse_entries(str(entry)) == [entry]
        assert entry.options[:4] == ["--method", entry.method, "--strength", f"{entry.strength:g}"]
    assert Entry("prss_prmask", 2).options[4:] == ["--pr_mask"]
    assert Entry("none").options == []


@pytest.mark.parametrize(
    ("name", "strength", "file"), [("rt", 4, "s_4_rt4"), ("prss_prmask", 0.4, "s_0.4_prss_prmask")]
)
def test_the_rows_of_an_entry_are_where_its_run_writes_them(name, strength, file, tmp_path):
    """Names of files count the words of methods that add some, as inference_mem.py does."""
    entry = Entry(name, strength)
    args = inference_mem.make_parser().parse_args(
        [*entry.options, "--run_name", entry.run_name("s"), "--output_dir", str(tmp_path)]
    )
    files = MitigationSettings.from_args(args).files
    assert entry.rows(tmp_path, "s") == files.rows == tmp_path / "det_outputs" / f"{file}_mitigation.jsonl"


@pytest.mark.parametrize("text", ["pee:1", "pe", "pe:a"])
def test_an_entry_that_means_nothing_is_refused(text):
    with pytest.raises(InputError, match="pe"):
        parse_entries(text)


@pytest.mark.slow
def test_detection_sweep_of_ones_own_model_and_its_resume(model_folder, tmp_path):
    data = ("--mem", "planted_mem_groundtruth", "--nonmem", "planted/planted_nonmemorized.jsonl")
    argv = (*data, "--seeds", 1, 2, "--images", 1, 2, "--model_id", model_folder, "--start", 14, "--end", 18)
    result = run("sweep_detection", tmp_path, *argv)
    assert result.returncode == 0, result.stderr[-2000:]
    table = (tmp_path / "evaluation" / "detection.md").read_text()
    assert "verbatim / planted_nonmemorized" in table and "gen_seed 1, 2" in table
    assert (tmp_path / "evaluation" / "threshold.json").exists()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")}
    assert run("sweep_detection", tmp_path, *argv).returncode == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")} == before  # nothing was generated again


@pytest.mark.slow
def test_mitigation_sweep_of_ones_own_model(model_folder, tmp_path):
    strengths = ("--targets", 0.01, "--words", 1, "--noise", 1, "--evaluate", EVALUATE)
    prompts = ("--dataset", "planted_mem_groundtruth", "--start", 15, "--end", 17)
    result = run("sweep_mitigation", tmp_path, *strengths, "--model_id", model_folder, *prompts)
    assert result.returncode == 0, result.stderr[-2000:]
    table = (tmp_path / "evaluation" / "mitigation.md").read_text()
    for method in ("none", "pe", "pe_be", "prss", "prss_be", "prss_prmask", "rna", "rt", "cwr", "gni"):
        assert f"| {method} " in table
    assert (tmp_path / "evaluation" / "tradeoff.png").exists()


@pytest.mark.slow
def test_benchmark_of_ones_own_model_and_its_resume(model_folder, tmp_path):
    """Every stage on two prompts, to the page at the end; the second call generates nothing."""
    argv = (
        *("--mem", "planted_mem_groundtruth", "--nonmem", "planted/planted_near_miss.jsonl"),
        *("--ordinary", "planted/planted_ordinary.jsonl", "--control", "planted_control_groundtruth"),
        *("--detect", "--num_images_per_prompt 2 --start 14 --end 18", "--prompts", "--start 15 --end 17"),
        *("--harmless", "--end 2", "--methods", "pe:0.01", "prss_be:0.01", "rna:1", "gni:1"),
        *("--images", 1, "--evaluate", EVALUATE, "--model_id", model_folder),
    )
    result = run("benchmark", tmp_path, *argv)
    assert result.returncode == 0, result.stderr[-2000:]
    page = (tmp_path / "evaluation" / "benchmark.md").read_text()
    for name in ("score_change_2", "sharpness", "tiled_l2", "broken_memories", "prss_be", "gni"):
        assert f"| {name} " in page
    audit = (tmp_path / "evaluation" / "audit.md").read_text()
    assert "| none, never trained on " in audit and "| rna " not in audit  # whose words an embedding replaces
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl") if "evaluation" not in p.parts}
    assert run("benchmark", tmp_path, *argv).returncode == 0
    assert {p: p.read_bytes() for p in before} == before
