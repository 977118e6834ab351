"""The sweep scripts as a user types them, on a tiny model with few steps; each run starts Python anew, so slow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memorization.bundled import PLANTED, ROOT

EVALUATORS = PLANTED / "planted_evaluators"


def sweep(script, output, *argv, **environment):
    """Run a sweep; VENV makes it use this interpreter's environment instead of installing one."""
    marker = Path(sys.prefix) / "installed_requirements.txt"
    if not marker.exists():
        pytest.skip("needs the environment that tools/run_tests.sh makes")
    variables = {**os.environ, "VENV": sys.prefix, "OUTPUT": str(output), "HF_HUB_OFFLINE": "1", **environment}
    command = ["bash", str(ROOT / "experiments" / script), *map(str, argv), "--num_inference_steps", "3"]
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
def test_detection_sweep_of_ones_own_model_and_its_resume(model_folder, tmp_path):
    data = {"MEM": "planted_mem_groundtruth", "NONMEM": "examples/planted_nonmemorized.jsonl"}
    argv = ("--model_id", model_folder, "--start", 22, "--end", 26)
    options = {**data, "SEEDS": "1 2", "IMAGES": "1 2"}
    result = sweep("sweep_detection.sh", tmp_path, *argv, **options)
    assert result.returncode == 0, result.stderr[-2000:]
    table = (tmp_path / "evaluation" / "detection.md").read_text()
    assert "verbatim / planted_nonmemorized" in table and "gen_seed 1, 2" in table
    assert (tmp_path / "evaluation" / "threshold.json").exists()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")}
    assert sweep("sweep_detection.sh", tmp_path, *argv, **options).returncode == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl")} == before  # nothing was generated again


@pytest.mark.slow
def test_mitigation_sweep_of_ones_own_model(model_folder, tmp_path):
    evaluate = f"--sscd {EVALUATORS}/copy_descriptor.torchscript.pt --reference_model {EVALUATORS}/planted_clip"
    strengths = {"LAMBDAS": "0.01", "WORDS": "1", "NOISE": "1", "EVALUATE": evaluate}
    argv = ("--model_id", model_folder, "--dataset", "planted_mem_groundtruth", "--start", 23, "--end", 25)
    result = sweep("sweep_mitigation.sh", tmp_path, *argv, **strengths)
    assert result.returncode == 0, result.stderr[-2000:]
    table = (tmp_path / "evaluation" / "mitigation.md").read_text()
    for method in ("none", "pe", "pe_be", "prss", "prss_be", "prss_prmask", "rna", "rt", "cwr", "gni"):
        assert f"| {method} " in table
    assert (tmp_path / "evaluation" / "tradeoff.png").exists()


@pytest.mark.slow
def test_benchmark_of_ones_own_model_and_its_resume(model_folder, tmp_path):
    """Every stage on two prompts, to the page at the end; the second call generates nothing."""
    evaluate = f"--sscd {EVALUATORS}/copy_descriptor.torchscript.pt --reference_model {EVALUATORS}/planted_clip"
    options = {
        "MEM": "planted_mem_groundtruth", "NONMEM": "examples/planted_near_miss.jsonl",
        "ORDINARY": "examples/planted_ordinary.jsonl", "CONTROL": "planted_control_groundtruth",
        "DETECT": "--num_images_per_prompt 2 --start 22 --end 26", "PROMPTS": "--start 23 --end 25",
        "HARMLESS": "--end 2", "METHODS": "pe:0.01 prss_be:0.01 rna:1 gni:1", "IMAGES": "1", "EVALUATE": evaluate,
    }  # fmt: skip
    result = sweep("benchmark_planted.sh", tmp_path, "--model_id", model_folder, **options)
    assert result.returncode == 0, result.stderr[-2000:]
    page = (tmp_path / "evaluation" / "benchmark.md").read_text()
    for name in ("score_change_2", "sharpness", "tiled_l2", "broken_memories", "prss_be", "gni"):
        assert f"| {name} " in page
    audit = (tmp_path / "evaluation" / "audit.md").read_text()
    assert "| none, never trained on " in audit and "| rna " not in audit  # whose words an embedding replaces
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl") if "evaluation" not in p.parts}
    assert sweep("benchmark_planted.sh", tmp_path, "--model_id", model_folder, **options).returncode == 0
    assert {p: p.read_bytes() for p in before} == before
