"""Runs of both scripts for the tests of resume, batches and processes, and how their outputs are compared."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from memorization.bundled import PLANTED, ROOT

COMMON = ["--num_inference_steps", "2", "--end", "3", "--num_images_per_prompt", "1", "--batch_size", "2"]
MASKED_PRSS = ["--run_version", "ours_A", "--l_target_ss", "0.01", "--l_target_pr", "0.01", "--mag_thres_pr", "0.5"]
OPTIONS = {
    "detect_mem": [*COMMON, "--dataset", str(PLANTED / "planted_memorized.jsonl")],
    "inference_mem": [*COMMON, "--dataset", str(PLANTED / "planted_mem_groundtruth"), *MASKED_PRSS],
}
ROWS = {"detect_mem": "test_ours.jsonl", "inference_mem": "test_prss_be_mitigation.jsonl"}


def files(folder):
    """Contents of all files below a folder, by their relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}


@contextlib.contextmanager
def one_thread():
    """Calls within run on one thread, as every process of several does: their number changes rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def launcher(processes):
    """What a command line of one or several processes on the CPU begins with."""
    if processes == 1:
        return [sys.executable]
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    words += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*words, "--main_process_port", "0"]


def command(script, processes, folder, model, *more):
    """A command line of one or several processes on the CPU."""
    options = ["--device", "cpu", "--output_dir", str(folder), "--model_id", str(model), *OPTIONS[script], *more]
    return [*launcher(processes), str(ROOT / f"{script}.py"), *options]


def ranks(processes, script, *words):
    """A command line started as each of several processes of one launch, without the launcher's own start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": f"{processes}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    line, pipes = (
        [sys.executable, str(ROOT / f"{script}.py"), *map(str, words)],
        {"text": True, "start_new_session": True},
    )
    return [
        subprocess.Popen(
            line,
            env=environment() | (shared if processes > 1 else {}) | {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **pipes,
        )
        for rank in range(processes)
    ]


def kill_ranks(children, has_begun, pause):
    """Kill processes with SIGKILL so many seconds after something is so, or after they have ended before it."""
    while not has_begun() and any(child.poll() is None for child in children):
        time.sleep(0.001)
    time.sleep(pause)
    for child in children:
        child.kill()
    for child in children:
        child.communicate()


def run_ranks(processes, script, *words):
    """Run a command line as several processes to its end; returns what the first printed."""
    ended = [(child, *child.communicate()) for child in ranks(processes, script, *words)]
    for child, _, error in ended:
        assert child.returncode == 0, error[-3000:]
    return ended[0][1]


def environment():
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def run(script, processes, folder, model, *more):
    """Run a command line to its end; returns what it printed."""
    done = subprocess.run(
        command(script, processes, folder, model, *more), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def finished(script, folder):
    """Keys of the rows that are on disk, shards included; torn lines do not count and are left as they are."""
    paths = (Path(folder) / "det_outputs").glob(f"{ROWS[script]}*")
    lines = [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]
    return {json.loads(line)["index"] for line in lines}
