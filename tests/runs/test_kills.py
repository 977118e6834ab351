"""Both scripts killed with SIGKILL at random moments, alone and as two processes, then run again to the end."""

import os
import random
import signal
import subprocess
import time

import pytest

from helpers.scale_runs import command, environment, files, finished, run

KILLS = int(os.environ.get("KILLS", 20))


def writing_since(folder, child):
    """Wait until the run has begun to write; the time then. Before that there is nothing to lose."""
    while child.poll() is None and not list(folder.glob("det_outputs/*.config.json")):
        time.sleep(0.02)
    return time.time()


def start(*args):
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.Popen(command(*args), env=environment(), start_new_session=True, **quiet)


def kill_after(seconds, folder, child):
    """Kill a run and its children so long after its first write; False if it had ended by itself before."""
    writing_since(folder, child)
    try:
        child.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        # The launcher's workers are sessions of their own; they carry the folder in their command line.
        subprocess.run(["pkill", "-KILL", "-f", str(folder)], check=False)
        child.wait()
        return True


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("script", ["detect_mem", "inference_mem"])
def test_nothing_is_lost_or_doubled_by_kills_at_random_moments(script, processes, tmp_path, model_folder):
    moments, args = random.Random(f"{script} {processes}"), (model_folder, "--num_inference_steps", "40", "--end", "6")
    child = start(script, processes, tmp_path / "whole", *args)
    began = writing_since(tmp_path / "whole", child)
    assert child.wait() == 0
    lasts, wanted, rows_then = time.time() - began, files(tmp_path / "whole"), []
    for trial in range(KILLS):
        folder = tmp_path / f"trial_{trial}"
        if kill_after(moments.uniform(0, lasts), folder, start(script, processes, folder, *args)):
            rows_then.append(len(finished(script, folder)))
        run(script, processes, folder, *args)
        assert files(folder) == wanted, trial
    print(f"{script}, {processes} processes: {len(rows_then)} of {KILLS} killed, with rows {rows_then}; all equal")
