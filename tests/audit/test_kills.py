"""An audit with both attacks killed with SIGKILL at random moments, alone and as two processes, then run to the end."""

import os
import random
import time

import pytest

from helpers.scale_runs import ranks, run_ranks
from memorization.bundled import COPY_DESCRIPTOR, PLANTED

KILLS = int(os.environ.get("KILLS", 20))
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


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(processes, tmp_path, model_folder):
    argv = ["audit_mem", *HOW, "--model_id", model_folder, "--sscd", COPY_DESCRIPTOR, "--output"]
    moments, began = random.Random(processes), time.time()
    run_ranks(processes, *argv, tmp_path / "whole")
    lasts, wanted, stages = time.time() - began, results(tmp_path / "whole"), []
    for trial in range(KILLS):
        folder = tmp_path / f"trial_{trial}"
        children = ranks(processes, *argv, folder)
        time.sleep(moments.uniform(lasts / 5, lasts))  # before, packages are imported
        for child in children:
            child.kill()
        for child in children:
            child.communicate()
        stages.append(len(list(folder.glob("det_outputs/*.config.json"))))
        run_ranks(processes, *argv, folder)
        assert results(folder) == wanted, trial
    print(f"{processes} processes: {KILLS} killed, with so many of eight runs begun: {stages}; all equal")
