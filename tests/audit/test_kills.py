"""An audit with both attacks killed with SIGKILL at random moments of each stage, alone and as two processes, then run
to the end."""

import os
import random
import time

import pytest

from helpers.scale_runs import kill_ranks, ranks, run_ranks
from memorization.bundled import COPY_DESCRIPTOR, PLANTED

RUNS = 8  # controls, screen, base, generation, and two of each attack
KILLS = int(os.environ.get("KILLS", 2 * (RUNS + 1)))
CONTROLS = PLANTED / "planted_control_groundtruth"
HOW = (
    "--attacks contrast embeddings --search_steps 2 --base_model_id own --device cpu --num_images_per_prompt 1".split()
)
HOW += "--fdr 0.3 --num_inference_steps 4 --num_controls 9 --num_copy_controls 3 --batch_size 1".split()
HOW += ["--num_unflagged", "8", "--training_data", PLANTED / "planted_mem_groundtruth", "--controls", CONTROLS]


def results(folder):
    """The verdict, and all rows by their files."""
    rows = {path.name: path.read_bytes() for path in (folder / "det_outputs").glob("*.jsonl")}
    return (folder / "audit.json").read_text().replace(str(folder), ""), rows


def num_begun(folder):
    """How many runs of an audit have begun; the index is none."""
    return len(list(folder.glob("det_outputs/*.config.json")))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(processes, tmp_path, model_folder):
    argv = ["audit_mem", *HOW, "--model_id", model_folder, "--sscd", COPY_DESCRIPTOR, "--output"]
    moments, began = random.Random(processes), time.time()
    run_ranks(processes, *argv, tmp_path / "whole")
    lasts, wanted, begun = time.time() - began, results(tmp_path / "whole"), []
    for trial in range(KILLS):
        folder = tmp_path / f"trial_{trial}"
        children = ranks(processes, *argv, folder)
        runs = trial % (RUNS + 1)
        kill_ranks(
            children, lambda folder=folder, runs=runs: num_begun(folder) >= runs, moments.uniform(0, lasts / RUNS)
        )
        begun.append(num_begun(folder))
        run_ranks(processes, *argv, folder)
        assert results(folder) == wanted, trial
    print(f"{processes} processes: {KILLS} killed, with so many of {RUNS} runs begun: {begun}; all equal")
