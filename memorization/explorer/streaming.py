"""Work on one thread, what it tells on another: a generator over what a job gives out as it goes."""

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from memorization.explorer.stopping import Stop, Stopped

Told = TypeVar("Told")
POLL = 0.25  # seconds after which whoever waits looks whether to go on


def stream(job: Callable[[Callable[[Told], None]], None], stop: Stop) -> Iterator[Told]:
    """What the job tells, the latest where it tells more than is taken; closing the generator stops the job.

    Args:
        job: gets the function that it tells by.
        stop: that the job looks at.

    Raises:
        Whatever the job raised, but for `Stopped`.
    """
    told: queue.Queue[Any] = queue.Queue()
    failed: list[BaseException] = []

    def work() -> None:
        try:
            job(told.put)
        except Stopped:
            pass
        except BaseException as error:  # handed to whoever waits
            failed.append(error)
        told.put(None)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (found := latest(told, stop)) is not None:
            yield found
    finally:
        stop.ask()  # whoever closes the generator does not wait for the thread: the next job waits for the model
    if failed:
        raise failed[0]


def latest(told: "queue.Queue[Any]", stop: Stop) -> Any:
    """The newest of what was told, waiting for one; None at the end, and when it is to stop."""
    while True:
        try:
            found = told.get(timeout=POLL)
        except queue.Empty:
            if stop.asked.is_set():
                return None
            continue
        while found is not None and not told.empty():
            newer = told.get()
            if newer is None:
                told.put(None)
                return found
            found = newer
        return found
