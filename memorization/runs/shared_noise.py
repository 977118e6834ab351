"""Noise that the prompts of a run share: what a model makes of it without a prompt is then the same for all of them."""

from functools import cached_property
from typing import TYPE_CHECKING

import torch

from memorization.runs.settings import RunSettings
from optim_utils import first_timestep, predict_uncond

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


class SharedNoise:
    """What image k of every prompt starts from with `--seed_mode shared`, for all k; made when it is first asked for.

    Attributes:
        t: timestep of the first step.
    """

    def __init__(self, pipe: "DenoisingPipeline", settings: RunSettings):
        self.pipe, self.settings = pipe, settings
        self.t = first_timestep(pipe, settings.num_inference_steps)

    @cached_property
    def latents(self) -> torch.Tensor:
        """Starting noise, (images of a prompt, channels, height, width)."""
        return self.pipe.initial_latents(self.settings.seeds(0), self.settings.image_length)

    @cached_property
    @torch.no_grad()
    def uncond(self) -> torch.Tensor:
        """Unconditional output of the first step, shaped as `latents`; one evaluation an image.

        It depends on the noise alone, which is what makes it one for all prompts.
        """
        negative, pieces = self.pipe.encode([""])[1], self.latents.split(self.settings.batch_size)
        found = [predict_uncond(self.pipe, some, self.t, negative.expand(len(some), -1, -1)) for some in pieces]
        return torch.cat(found)

    def first_uncond(self, num_prompts: int) -> torch.Tensor:
        """`uncond` for the images of so many prompts, (images, channels, height, width)."""
        return self.uncond.repeat(num_prompts, 1, 1, 1)
