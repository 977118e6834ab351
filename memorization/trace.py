"""What a generation leaves for the detectors, kept while it runs; images come first in every tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from attn_utils import CrossAttentionStore
from noise_norms import noise_diff_map

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline
    from memorization.detectors.base import Detector

FIRST_STEPS = 3  # that detectors may look at again when the generation is over

Embeds = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Calibration:
    """Mean and standard deviation by step, (steps,) each, of what a detector watched in ordinary images, by name."""

    mean: Mapping[str, torch.Tensor]
    std: Mapping[str, torch.Tensor]


@dataclass
class Trace:
    """What a generation of a batch leaves for the detectors, kept while it runs.

    Attributes:
        pipe: a `DenoisingPipeline`.
        embeds: (uncond, text) features, each (images, tokens, dim).
        tokens: end-token index of every image, int64 (images,).
        seeds: one integer per image.
        num_inference_steps: of a whole generation.
        steps: `DenoiseStep` by index, of the first three and the last.
        diff_maps: `noise_norms.noise_diff_map` of every step so far, each (images, height, width).
        uncond_norms: norm of the unconditional prediction of every step so far, each (images,).
        token_shares: attention of each token by layer, (images, tokens), by step, where a detector reads it.
        watched: what detectors watch, by detector's name: a dict of (images,) of every step so far.
        mask: the bright-ending mask that local scores weigh with, (images, 1, height, width); None without one.
        bright_ending: the mask of this very generation; None where it was not read.
        calibration: what ordinary images are like, for detectors that compare with them.
        detectors: those that are measured, some of which watch every step.
        found_maps: maps that detectors made on the way, (images, height, width) by name.
        base_embeds: `embeds` by the text encoder of the model before it was tuned; None without one.
    """

    pipe: "DenoisingPipeline"
    embeds: Embeds
    tokens: torch.Tensor
    seeds: Sequence[int]
    num_inference_steps: int
    steps: dict[int, "DenoiseStep"] = field(default_factory=dict)
    diff_maps: list[torch.Tensor] = field(default_factory=list)
    uncond_norms: list[torch.Tensor] = field(default_factory=list)
    token_shares: dict[int, CrossAttentionStore] = field(default_factory=dict)
    watched: dict[str, list[dict[str, torch.Tensor]]] = field(default_factory=dict)
    mask: torch.Tensor | None = None
    bright_ending: torch.Tensor | None = None
    calibration: Calibration | None = None
    detectors: Sequence["Detector"] = ()
    found_maps: dict[str, torch.Tensor] = field(default_factory=dict)
    base_embeds: Embeds | None = None
    last_index: int | None = None  # of the latest step beyond the first, which the next one replaces

    def watch(self, step: "DenoiseStep") -> None:
        """See a step of the generation and keep what the detectors read."""
        if self.last_index is not None:
            self.steps.pop(self.last_index)
        self.last_index = step.index if step.index >= FIRST_STEPS else None
        self.steps[step.index] = step
        self.diff_maps.append(noise_diff_map(step.noise_diff))
        self.uncond_norms.append(step.noise_pred_uncond.float().flatten(1).norm(dim=1))
        for detector in self.detectors:
            if detector.watch is not None:
                self.watched.setdefault(detector.name, []).append(detector.watch(self.pipe, step))

    @property
    def last(self) -> "DenoiseStep":
        return self.steps[max(self.steps)]

    @property
    def maps(self) -> torch.Tensor:
        """`noise_diff_map` of every step, (images, steps, height, width)."""
        return torch.stack(self.diff_maps, 1)

    def watched_norms(self, name: str) -> dict[str, torch.Tensor]:
        """What the detector of this name watched, by key (images, steps)."""
        return {key: torch.stack([step[key] for step in self.watched[name]], 1) for key in self.watched[name][0]}


def late_steps(num_inference_steps: int) -> range:
    """Indices of the last fifth of the steps, at least one."""
    return range(num_inference_steps - max(1, num_inference_steps // 5), num_inference_steps)


def token_groups(tokens: torch.Tensor, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """Which token is begin token, word, end token or padding: bool (images, tokens) each.

    Args:
        tokens: end-token index of every image, int64 (images,).
        like: a tensor (images, tokens).
    """
    place = torch.arange(like.shape[1], device=like.device)[None]
    end = tokens.to(like.device)[:, None]
    return {"bos": place == 0, "words": (place > 0) & (place < end), "end": place == end, "padding": place > end}
