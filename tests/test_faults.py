"""Both scripts killed with SIGKILL at random moments, alone and as two processes, then run again to the end."""

import os
import random
import signal
import subprocess
import time

import pytest
from scale_runs import command, environment, files, run

KILLS = int(os.environ.get("KILLS", 20))


def kill_after(seconds, *args):
    """Start a command line and kill it and its children; False if it had ended by itself before."""
    child = subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        child.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        # The launcher's workers are sessions of their own; they carry its folder in their command line.
        subprocess.run(["pkill", "-KILL", "-f", str(args[2])], check=False)
        return True


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("script", ["detect_mem", "inference_mem"])
def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(script, processes, tmp_path, model_folder):
    moments, more = random.Random(f"{script} {processes}"), ["--num_inference_steps", "10"]
    run(script, processes, tmp_path / "warm", model_folder, *more)
    started = time.time()
    run(script, processes, tmp_path / "whole", model_folder, *more)
    lasts, wanted, killed, with_rows = time.time() - started, files(tmp_path / "whole"), 0, 0
    for trial in range(KILLS):
        folder = tmp_path / f"trial_{trial}"
        # From the moment the imports are done; before it there is nothing to lose.
        killed += kill_after(moments.uniform(0.5, 1) * lasts, script, processes, folder, model_folder, *more)
        with_rows += any((folder / "det_outputs").glob("*.jsonl*"))
        run(script, processes, folder, model_folder, *more)
        assert files(folder) == wanted, trial
    print(f"{script}, {processes} processes: {killed} of {KILLS} killed, {with_rows} with files of rows; all equal")
