"""Stopping a generation that nobody waits for any more, and seeing its steps: both from outside, by `with`."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attn_utils import CrossAttentionStore
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
def watched(
    pipe: "DenoisingPipeline",
    look: Callable[["DenoiseStep", int], None],
    stores: Mapping[int, "CrossAttentionStore"] = MappingProxyType({}),
) -> Iterator[None]:
    """Within the block `look` sees every step of every generation, with the number of its steps, as it is made.

    Args:
        stores: by index, what records that step's attention, beside whatever else records it.
    """
    denoise = pipe.denoise

    def passing(latents: Any, embeds: Any, *, around_step: Any = None, **kwargs: Any) -> Iterator[Any]:
        def around(index: int, is_last: bool) -> ExitStack:
            stack = ExitStack()
            if around_step is not None:
                stack.enter_context(around_step(index, is_last))
            if index in stores:
                stack.enter_context(pipe.recording(stores[index], len(embeds)))
            return stack

        for step in denoise(latents, embeds, around_step=around, **kwargs):
            look(step, kwargs.get("num_inference_steps", 50))
            yield step

    pipe.denoise = passing  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        del pipe.denoise
