"""What GUARD (Zhao et al., ICML 2026) does to spiking tokens and to guidance: shared by its methods."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attn_utils import CrossAttentionEdit, cross_attention_layers
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline, NoisePrediction

GUARD = "Zhao et al., ICML 2026"
THRESHOLD, FACTOR = 0.1, 0.3  # z-score from which a token spikes, what its logits are multiplied with
PARALLEL, LARGEST_PART = 0.9, 2.0  # cosine from which a direction is projected, bound of what is taken away
EPSILON = 1e-8
RELEASED = {"strength": 2, "threshold": THRESHOLD, "factor": FACTOR, "guidance scale": 7.5}
SWEEP = (0.5, 1, 2, 4, 8)


def attenuation(pipe: "DenoisingPipeline", threshold: float, factor: float, num_branches: int) -> CrossAttentionEdit:
    """The edit that multiplies logits of the prompt's spiking tokens in the down and mid blocks."""
    layers = tuple(n for n in cross_attention_layers(pipe.unet) if n.startswith(("down_blocks", "mid_block")))
    return CrossAttentionEdit(num_branches=num_branches, layers=layers, spikes=(threshold, factor))


def guarded(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    repulsion: float,
    project: bool,
) -> Mitigated:
    """Generation with three branches: the empty prompt, the prompt with spikes attenuated, the prompt as it is."""
    edit = attenuation(pipe, THRESHOLD, FACTOR, num_branches=3)
    guidance = RepellingGuidance(options.guidance_scale, repulsion, options.num_inference_steps, project)
    return always_acting(pipe, options, images, guidance=guidance, edits=[edit], with_original=True)


@dataclass
class RepellingGuidance:
    """Towards an edited prediction and away from the original one.

    eps = eps_u + s v+ - r cos(pi i / 2 S) v- with v+ = eps+ - eps_u of the edited branch, v- = eps- - eps_u of the
    original one, i the step's index, S the number of steps.

    Attributes:
        guidance_scale: s.
        repulsion: r.
        project: whether v+ becomes `projected` first.
        index: of the latest step.
    """

    guidance_scale: float
    repulsion: float
    num_inference_steps: int
    project: bool
    index: int = -1

    def __call__(self, prediction: "NoisePrediction") -> torch.Tensor:
        self.index += 1
        uncond, edited, original = prediction.outputs
        towards, away = edited - uncond, original - uncond
        if self.project:
            towards = projected(towards, away)
        decay = math.cos(math.pi * self.index / (2 * self.num_inference_steps))
        return uncond + self.guidance_scale * towards - self.repulsion * decay * away


def projected(towards: torch.Tensor, away: torch.Tensor) -> torch.Tensor:
    """`towards` without its part along `away`, for images in which the two are nearly parallel (cosine above 0.9).

    The part is <towards, away> / ||away||^2, clipped to [-2, 2].

    Args:
        towards, away: (images, channels, height, width).
    """
    flat, other = towards.float().flatten(1), away.float().flatten(1)
    product = (flat * other).sum(1)
    squares = [(x * x).sum(1) + EPSILON for x in (flat, other)]
    cosine = product / (squares[0].sqrt() * squares[1].sqrt())
    part = (product / squares[1]).clamp(-LARGEST_PART, LARGEST_PART) * (cosine > PARALLEL)
    return (towards - part.view(-1, 1, 1, 1) * away).to(towards.dtype)
