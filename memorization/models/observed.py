"""Any text-to-image pipeline of diffusers that uses classifier-free guidance, observed at its denoiser from outside.

The pipeline's own loop runs as it is. A hook on its transformer or UNet sees the predictions with and without the
prompt, in one call of two halves or in two calls, and the scheduler's step tells where a step ends. So D needs no code
for each family, and images are those that the pipeline makes unobserved.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from memorization.errors import InputError

TRUE_GUIDANCE = "true_cfg_scale"  # what pipelines of distilled models call guidance by two predictions


@dataclass(frozen=True)
class Observed:
    """What observing one prompt leaves.

    Attributes:
        norms: D of each step, ||prediction with the prompt - without||, float32 (images, steps); higher = memorized. Of
            what the model predicts: noise, v, or the velocity of flow matching, which are never compared.
        images: uint8 (images, height, width, 3); None after an early exit.
        num_evals: evaluations of single samples.
    """

    norms: torch.Tensor
    images: np.ndarray | None
    num_evals: int


class EnoughSteps(Exception):
    """Leaves a pipeline's loop after the steps that were asked for."""


class GuidanceObserver:
    """Pairs a denoiser's predictions, step by step.

    Attributes:
        norms: D of every step so far, (images,) each.
        num_evals: evaluations of single samples.
    """

    def __init__(self, pipe: DiffusionPipeline, num_images: int, stop_after: int | None = None):
        """
        Args:
            num_images: in the batch.
            stop_after: steps after which the loop is left; None runs it to its end.

        Raises:
            InputError: if the pipeline has no denoiser or no scheduler of its own.
        """
        self.pipe, self.num_images, self.stop_after = pipe, num_images, stop_after
        self.norms: list[torch.Tensor] = []
        self.num_evals = 0
        self.outputs: list[torch.Tensor] = []
        self.denoiser: Any = getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)
        if self.denoiser is None or getattr(pipe, "scheduler", None) is None:
            raise InputError(f"{type(pipe).__name__} has no transformer or UNet with a scheduler to be observed at")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks in place for the length of the block."""
        step, handle = self.pipe.scheduler.step, self.denoiser.register_forward_hook(self.see)

        def ended(*args: Any, **kwargs: Any) -> Any:
            self.end_step()
            return step(*args, **kwargs)

        self.pipe.scheduler.step = ended
        try:
            yield
        finally:
            handle.remove()
            del self.pipe.scheduler.step  # the class's own comes back

    def see(self, module: torch.nn.Module, args: tuple, output: Any) -> None:
        """Keep one call's prediction."""
        first = output[0] if not isinstance(output, torch.Tensor) else output
        first = torch.stack(list(first)) if isinstance(first, list | tuple) else first
        self.num_evals += len(first)
        self.outputs.append(first.detach())

    def end_step(self) -> None:
        """Take the norm of the step that the scheduler is called for, and leave the loop if it was the last wanted.

        Raises:
            EnoughSteps: to leave the loop.
        """
        text, uncond = self.pair()
        self.norms.append((text.float() - uncond.float()).flatten(1).norm(dim=1).cpu())
        self.outputs = []
        if self.stop_after is not None and len(self.norms) >= self.stop_after:
            raise EnoughSteps

    def pair(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The step's two predictions, in either order, (images, ...) each; a learned variance is left out.

        Raises:
            InputError: if there are not two for each image.
        """
        sizes = [len(output) for output in self.outputs]
        if sizes not in ([2 * self.num_images], [self.num_images] * 2):
            name = type(self.pipe).__name__
            raise InputError(
                f"{name} makes {sum(sizes) // self.num_images} predictions for an image at a step, not one with the "
                "prompt and one without: D is of classifier-free guidance; give a guidance_scale above 1 if it has it"
            )
        one, other = self.outputs if len(sizes) == 2 else self.outputs[0].chunk(2)
        channels = getattr(self.denoiser.config, "in_channels", None)
        if one.ndim == 4 and channels is not None and one.shape[1] == 2 * channels:
            one, other = one[:, :channels], other[:, :channels]
        return one, other


def observe_pipeline(
    pipe: DiffusionPipeline,
    prompt: str,
    seeds: Sequence[int],
    *,
    num_inference_steps: int = 50,
    guidance_scale: float | None = None,
    stop_after: int | None = None,
    **call: Any,
) -> Observed:
    """Generate a prompt by a pipeline's own loop and measure D at every step.

    Args:
        pipe: a text-to-image pipeline of diffusers.
        seeds: one integer per image, each of which depends on its own alone.
        guidance_scale: None takes the pipeline's default.
        stop_after: steps after which it is enough: no images.
        **call: further arguments of the pipeline.

    Raises:
        InputError: if it takes no prompt or generator, or makes no prediction without the prompt.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    if "prompt" not in takes or "generator" not in takes or "image" in takes and takes["image"].default is not None:
        raise InputError(f"{type(pipe).__name__} makes no image out of a prompt alone")
    options: dict[str, Any] = {"num_inference_steps": num_inference_steps, "output_type": "np", **call}
    name = TRUE_GUIDANCE if TRUE_GUIDANCE in takes else "guidance_scale"
    if guidance_scale is not None:
        options[name] = guidance_scale
    if TRUE_GUIDANCE in takes:  # there guidance is off without a negative prompt
        options.setdefault("negative_prompt", [" "] * len(seeds))
    observer = GuidanceObserver(pipe, len(seeds), stop_after)
    images = None
    try:
        with observer.watching(), torch.no_grad():
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            made = pipe(prompt=[prompt] * len(seeds), generator=generators, **options).images
            images = (np.asarray(made) * 255).round().astype(np.uint8)
    except EnoughSteps:
        pass
    return Observed(torch.stack(observer.norms, 1), images, observer.num_evals)
