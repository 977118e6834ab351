"""What the published signals read of a generation, kept while it runs."""

from dataclasses import dataclass, field

import torch

FIRST_STEPS = 3  # that are kept


@dataclass
class Trace:
    """What one generation of a batch leaves for the signals.

    Attributes:
        pipe: a `LocalStableDiffusionPipeline`.
        embeds: (uncond, text) features, each (images, tokens, dim).
        tokens: end-token index of every image, int64 (images,).
        seeds: one integer per image.
        num_inference_steps: of the whole run.
        steps: `DenoiseStep` by index, of the first three and the last.
        maps: `metrics.noise_diff_map` of the first step, in a list.
        stores: by step, the `TokenShares` of the steps whose attention is wanted.
        norms: `motion_norms` of each step, a list of dicts; None when nothing reads them.
        found_maps: maps that signals made on the way, (images, height, width) by name.
    """

    pipe: object
    embeds: tuple
    tokens: torch.Tensor
    seeds: list
    num_inference_steps: int
    steps: dict = field(default_factory=dict)
    maps: list = field(default_factory=list)
    stores: dict = field(default_factory=dict)
    norms: list | None = field(default_factory=list)
    found_maps: dict = field(default_factory=dict)
    last_index: int | None = None  # of the latest step beyond the first, which the next one replaces

    def watch(self, step, diff_map):
        """See a step of the generation and keep what the signals read."""
        self.steps.pop(self.last_index, None)
        self.last_index = step.index if step.index >= FIRST_STEPS else None
        self.steps[step.index] = step
        self.maps = self.maps or [diff_map]
        if self.norms is not None:
            self.norms.append(motion_norms(self.pipe, step))

    @property
    def last(self):
        return self.steps[max(self.steps)]


def motion_norms(pipe, step):
    """Norms of the latents, of their update and of the predicted x_0, a dict to (images,); guided, as they move.

    Broken Memories (Huang et al., KDD 2026) compares them with those of ordinary prompts. x_0 is computed from the
    predicted noise, so that v-prediction models are right.
    """
    prediction, a = step.prediction, pipe.scheduler.alphas_cumprod[step.timestep]
    noise = prediction.noise_scale * step.noise_pred + prediction.latents_scale * step.latents
    x0 = (step.latents - (1 - a).sqrt() * noise) / a.sqrt()
    moved = {"latent_norm": step.latents, "update_norm": step.next_latents - step.latents, "x0_norm": x0}
    return {name: x.float().flatten(1).norm(dim=1) for name, x in moved.items()}
