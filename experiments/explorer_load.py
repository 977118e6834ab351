"""How soon the explorer answers, and what 50 requests, 4 at a time and some of them cancelled, leave behind.

    python -m experiments.explorer_load
    python -m experiments.explorer_load --requests 8 --steps 2

Over the page's own address, by default on the bundled model, by clients in a process of their own. The first part
presses Look once (after one that loads the model) and compares with `memorization.detect` in the server's process; the
second counts results that are not those of their prompt, and the memory of the server's process after each 25, by four
new pages each time. Linux alone tells its memory.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue

import memorization
from memorization.bundled import MODEL
from memorization.runs.arguments import HelpFormatter, positive_int
from tools.explorer_screens import opened, served

PROMPTS = ("the wild owl poster", "the scarlet engine mug", "a large red fish", "a white parasol on the left")
AT_A_TIME = 4
AT_ONCE = 25  # requests after which memory is told
CANCEL_EVERY = 5
SCORE = re.compile(r'data-score="text_noise_norm" data-horizon="all".*?value="([^"]+)"')
SCORES_PART = 3  # of what /look gives


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--requests", type=positive_int, default=50, help=f"every {CANCEL_EVERY}th is cancelled")
    parser.add_argument("--model_id", default=str(MODEL), help="as of explore.py")
    parser.add_argument("--steps", type=positive_int, default=3, help="DDIM steps of each")
    return parser


def memory() -> float:
    """Resident memory of this process in MiB, when the allocator has given back what is free."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def submit(client, prompt: str, steps: int):
    return client.submit(prompt, 0, steps, "", client.model, "", 1, None, api_name="/look")


def make_client(address: str, model: str):
    """A client that looks at a model of the page."""
    from gradio_client import Client

    client = Client(address, verbose=False)
    client.model = model
    return client


def score_of(job) -> float | None:
    """D over all steps out of what a finished job gave: parts that did not change are not sent again."""
    job.result(timeout=600)
    texts = [str(parts[SCORES_PART]).replace("\n", "") for parts in job.outputs()]
    found = [match for text in texts if (match := SCORE.search(text)) is not None]
    return float(found[-1][1]) if found else None


def time_first_answers(address: str, model: str) -> dict[str, float]:
    """Seconds from the wish to the first point of the curve, to the finished picture and to its tiles, at 50 steps."""
    client = make_client(address, model)
    started, found = time.perf_counter(), {}
    for parts in submit(client, PROMPTS[0], 50):
        now = time.perf_counter() - started
        if "circle" in str(parts[2]):
            found.setdefault("first point", now)
        if 'id="picture">' in str(parts[1]):
            found.setdefault("picture", now)
        if any('id="tiles"' in str(part) for part in parts):
            found.setdefault("tiles", now)
    return found


def scores_of(address: str, model: str, steps: int) -> dict[str, float | None]:
    """D over all steps of each prompt, looked at one after another."""
    client = make_client(address, model)
    return {prompt: score_of(submit(client, prompt, steps)) for prompt in PROMPTS}


def many_requests(address: str, model: str, numbers: Sequence[int], steps: int) -> list[tuple[str, float | None]]:
    """Prompt and score of each request that was not cancelled; a page is asked by one of them at a time."""
    pages: SimpleQueue = SimpleQueue()
    for _ in range(AT_A_TIME):
        pages.put(make_client(address, model))

    def request(number: int) -> tuple[str, float | None] | None:
        page = pages.get()
        try:
            return one_request(page, number, steps)
        finally:
            pages.put(page)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return [pair for pair in pool.map(request, numbers) if pair is not None]


def one_request(client, number: int, steps: int) -> tuple[str, float | None] | None:
    """Prompt and score of one request; None of one that is cancelled on the way."""
    prompt = PROMPTS[number % len(PROMPTS)]
    job = submit(client, prompt, steps)
    if number % CANCEL_EVERY == CANCEL_EVERY - 1:
        time.sleep(0.3)
        job.cancel()
        with suppress(Exception):  # a cancelled job says so by raising
            job.result(timeout=600)
        return None
    return prompt, score_of(job)


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    pipe = memorization.load_pipeline(args.model_id)
    explorer = opened("--num_controls", "0", "--model_id", args.model_id)
    own_process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    with served(explorer) as address, own_process as process:
        page = (address, explorer.world.models.own)
        process.submit(scores_of, *page, args.steps).result()  # loads the model
        started = time.perf_counter()
        memorization.detect(pipe, PROMPTS[0])
        alone, first = time.perf_counter() - started, process.submit(time_first_answers, *page).result()
        told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in first.items())
        print(f"load {os.getloadavg()[0]:.1f}; detect alone {alone:.2f} s; {told}")
        expected = process.submit(scores_of, *page, args.steps).result()
        before, wrong, answered = memory(), 0, 0
        for first in range(0, args.requests, AT_ONCE):
            numbers = range(first, min(first + AT_ONCE, args.requests))
            found = process.submit(many_requests, *page, numbers, args.steps).result()
            answered += len(found)
            wrong += sum(score is None or score != expected[prompt] for prompt, score in found)
            told = f"{numbers.stop} requests, {answered} answered, {wrong} wrong, memory {memory() - before:+.1f} MiB"
            print(told, flush=True)


if __name__ == "__main__":
    main()
