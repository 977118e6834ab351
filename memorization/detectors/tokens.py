"""Token significance: which token of the prompt D hangs on."""

from functools import partial
from typing import TYPE_CHECKING

import torch

from memorization.detectors.base import detector
from memorization.gradients import in_chunks, loss_scale
from memorization.needs import TOKENS
from memorization.trace import FIRST_STEPS, Trace, token_groups
from noise_norms import noise_diff_map

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep

GROUPS = ("bos", "words", "end", "padding")


@detector(
    "token_significance",
    keys={f"token_significance_{group}": f"token_significance_{group}" for group in GROUPS},
    source="Wen et al., ICLR 2024",
    steps=3,
    cost=(3, 3),
    least_steps=1,
    needs=(TOKENS,),
)
def token_significance(trace: Trace) -> dict[str, torch.Tensor]:
    """Gradient of D by the conditional embedding: begin token, words, end token, padding.

    `token_gradients` summed over each group.
    """
    norms = token_gradients(trace)
    groups = token_groups(trace.tokens, norms)
    return {f"token_significance_{name}": (norms * groups[name]).sum(1) for name in GROUPS}


def token_gradients(trace: Trace) -> torch.Tensor:
    """Norm of the gradient of D with respect to each token of the CONDITIONAL embedding, (images, tokens).

    Wen et al. (ICLR 2024), token significance, as a mean over those of the first three steps that are kept, of a
    correctly guided trajectory; the released code steers away from the prompt there. Costs an evaluation and a
    gradient per image and step.
    """
    pipe, first = trace.pipe, [trace.steps[k] for k in sorted(trace.steps) if k < FIRST_STEPS]
    tokens = pipe.token_rows(trace.embeds[1])
    total = torch.zeros(tokens.shape[:2], device=tokens.device)
    for step in first:
        gradients = in_chunks(pipe, step.latents, 1, partial(token_gradient, trace, step))
        pipe.num_unet_gradients += len(gradients)
        total = total + pipe.token_rows(gradients).norm(dim=2) / len(first)
    return total


def token_gradient(trace: Trace, step: "DenoiseStep", some: slice) -> torch.Tensor:
    """Gradient of some images' D at a step by their conditional embedding, float32 (images, tokens, dim)."""
    prediction = step.prediction
    with torch.enable_grad():
        text = trace.embeds[1][some].detach().requires_grad_()
        output = trace.pipe.predict_noise(step.latents[some], step.timestep, (text,)).outputs[0]
        squares = noise_diff_map(prediction.noise_scale * (output - prediction.outputs[0][some])).sum((1, 2))
        scale = loss_scale(text.dtype)
        # A norm has no gradient at 0, where the empty prompt is: 0 here, as at its minimum.
        return torch.autograd.grad(scale * squares[squares > 0].sqrt().sum(), text)[0].float() / scale
