"""Guidance that begins at the first local minimum of D_t (Jain et al., CVPR 2025): shared by the methods that do so."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import NoisePrediction


@dataclass
class MinimumGuidance:
    """One guidance scale before the first local minimum of an image's D_t, the ordinary one from there on.

    A minimum is strict and inside the trajectory: D[t-1] < D[t] and D[t-1] < D[t-2]. It shows at the step after it,
    which is guided already, and so is every later one.

    Attributes:
        first_scale: of the guidance before; 0 follows the unconditional prediction, 1 the conditional one.
        longest: guidance begins after so many steps at the latest; None waits for the minimum.
        magnitudes: D of the two steps before, the latest last, (images,) each.
        guided: which images are guided from now on, bool (images,).
        index: of the latest step.
    """

    guidance_scale: float
    first_scale: float
    longest: int | None = None
    magnitudes: tuple[torch.Tensor, ...] = ()
    guided: torch.Tensor | None = None
    index: int = -1

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        self.index += 1
        magnitude = noise_diff_norm(prediction.diff())
        begun = self.is_past_minimum(magnitude)
        if self.longest is not None and self.index >= self.longest:
            begun = torch.ones_like(begun)
        self.guided = begun if self.guided is None else self.guided | begun
        self.magnitudes = (*self.magnitudes, magnitude)[-2:]
        ordinary, first = prediction.guided(self.guidance_scale), prediction.guided(self.first_scale)
        return ordinary.where(self.guided.view(-1, 1, 1, 1), first)

    def is_past_minimum(self, magnitude: torch.Tensor) -> torch.Tensor:
        """Whether the step before was a minimum, bool (images,)."""
        if len(self.magnitudes) < 2:
            return torch.zeros_like(magnitude, dtype=torch.bool)
        earlier, before = self.magnitudes
        return (before < magnitude) & (before < earlier)
