"""Both scripts, a screen and an index killed with SIGKILL at random moments, alone and as two processes, then run again
to the end."""

import os
import random
import signal
import subprocess
import time

import pytest

from helpers.scale_runs import command, environment, files, finished, kill_ranks, ranks, run, run_ranks
from memorization.bundled import COPY_DESCRIPTOR, DOSES_GROUND_TRUTH, PLANTED

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


IN_SHARDS = {  # command line but for model and output, and a shard that is whole
    "screen": (
        ["detect_mem", "--screen", "--seed_mode", "shared", "--num_images_per_prompt", "1", "--dataset"],
        PLANTED / "planted_doses.jsonl",
        "det_outputs/*/*-*.parquet",
    ),
    "index": (["tools/index_training_set", "--training_data"], DOSES_GROUND_TRUTH, "0*.npy"),
}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("work", IN_SHARDS)
def test_a_screen_and_an_index_lose_and_double_nothing_either(work, processes, tmp_path, model_folder):
    moments, (words, data, whole_shard) = random.Random(f"{work} {processes}"), IN_SHARDS[work]
    added = {
        "screen": ["--model_id", model_folder, "--output_dir"],
        "index": ["--sscd", COPY_DESCRIPTOR, "--batch_size", "2", "--output"],
    }
    argv = [processes, *words, data, "--shard_size", "4", "--device", "cpu", *added[work]]

    run_ranks(*argv, tmp_path / "whole")
    wanted, shards = files(tmp_path / "whole"), []
    total = len(list((tmp_path / "whole").glob(whole_shard)))
    for trial in range(KILLS):
        folder, least = tmp_path / f"trial_{trial}", moments.randint(0, total)
        children = ranks(*argv, folder)
        kill_ranks(
            children,
            lambda folder=folder, least=least: len(list(folder.glob(whole_shard))) >= least,
            moments.uniform(0, 0.1),
        )
        shards.append(len(list(folder.glob(whole_shard))))
        run_ranks(*argv, folder)
        assert files(folder) == wanted, trial
    print(f"{work}, {processes} processes: {KILLS} killed, with {shards} of {total} shards; all equal")
