"""Stopping a generation that nobody waits for any more, and seeing its steps: both from outside, by `with`."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline


class Stopped(Exception):
    """Whoever asked for the work does not want it any more."""


class Stop:
    """Asked for by one thread, noticed by another."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def ask(self) -> None:
        self.asked.set()

    def check(self) -> None:
        """
        Raises:
            Stopped: if it was asked for.
        """
        if self.asked.is_set():
            raise Stopped


@contextmanager
def stoppable(pipe: "DenoisingPipeline", stop: Stop) -> Iterator[None]:
    """Within the block every call of the denoiser, in the loop or for a gradient, looks whether to go on.

    Raises:
        Stopped: out of the call that found that it was not to.
    """

    def check(*call: object) -> None:
        stop.check()

    handle = pipe.denoiser.register_forward_pre_hook(check)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def watched(pipe: "DenoisingPipeline", look: Callable[["DenoiseStep", int], None]) -> Iterator[None]:
    """Within the block `look` sees every step of every generation, with the number of its steps, as it is made."""
    denoise = pipe.denoise

    def passing(*args: Any, **kwargs: Any) -> Iterator["DenoiseStep"]:
        for step in denoise(*args, **kwargs):
            look(step, kwargs.get("num_inference_steps", 50))
            yield step

    pipe.denoise = passing  # type: ignore[method-assign]
    try:
        yield
    finally:
        del pipe.denoise
