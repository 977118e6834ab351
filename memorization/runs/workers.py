"""Who does the work: this process among those of one `accelerate launch`, and the thread that writes beside it."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
from accelerate import PartialState

from memorization.errors import InputError

# A process that has finished its share waits for the slowest, however long that takes.
PATIENCE = timedelta(days=365)

Item = TypeVar("Item")


class Processes:
    """Number of processes, this one's rank, its device, and how they wait for one another; alone under plain python.

    Attributes:
        rank, count: this process's number and how many there are, over all machines.
    """

    def __init__(self, device: str = "auto"):
        """
        Args:
            device: what the user asked for; "auto" gives each process a GPU of its own where there are any.

        Raises:
            InputError: if one numbered device is asked for by several processes.
        """
        self.rank, self.count, self.device = 0, 1, device
        self.state: PartialState | None = None
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            return
        if ":" in device:
            raise InputError(f"--device {device} is one device; leave --device out to share several")
        on_cpu = device in ("cpu", "mps") or not torch.cuda.is_available()
        self.state = PartialState(cpu=on_cpu, timeout=PATIENCE)
        self.rank, self.count = self.state.process_index, self.state.num_processes
        self.device = "cpu" if on_cpu else str(self.state.device)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def shard(self) -> int | None:
        """Number of this process's shard of a file; None when it is alone."""
        return self.rank if self.count > 1 else None

    def share(self, items: Sequence[Item]) -> Sequence[Item]:
        """Every count-th item, from this process's rank on."""
        return items[self.rank :: self.count]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.state is not None:
            self.state.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process runs the block before the others do."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if self.state is not None and kind is None:  # after an error the launcher ends the others
            self.state.destroy_process_group()


class BackgroundWriter:
    """Runs jobs in one thread, in their order; at most one waits, so that memory stays bounded.

    Of a model whose parts take turns on the GPU no two can compute at the same time: there a job is done at once.

    On CUDA they have a stream of their own, which waits for what was computed before the job was handed over.
    """

    def __init__(self, device: str | torch.device, at_once: bool = False):
        self.at_once = at_once
        self.on_cuda = torch.device(device).type == "cuda"
        self.device = device
        self.stream = torch.cuda.Stream(device) if self.on_cuda else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self.job: Future | None = None

    def submit(self, job: Callable[..., object], *args: object) -> None:
        """Hand over a job when the one before is done.

        Raises:
            Whatever the job before raised, or this one where it is done at once.
        """
        if self.at_once:
            job(*args)
            return
        self.wait()
        ready = None
        if self.on_cuda:
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(self.device))
        self.job = self.pool.submit(self.run, ready, job, args)

    def run(self, ready: torch.cuda.Event | None, job: Callable[..., object], args: Sequence[object]) -> None:
        with torch.cuda.stream(self.stream) if self.on_cuda else nullcontext():
            if ready is not None and self.stream is not None:
                self.stream.wait_event(ready)
            job(*args)
            if self.stream is not None:  # tensors of the other stream may be freed only when nothing reads them
                self.stream.synchronize()

    def wait(self) -> None:
        """Until the last job is done.

        Raises:
            Whatever it raised.
        """
        job, self.job = self.job, None
        if job is not None:
            job.result()

    def close(self) -> None:
        """Finish what was begun and end the thread; a failure of it is not raised here."""
        self.pool.shutdown(wait=True)
