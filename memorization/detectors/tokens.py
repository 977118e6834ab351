"""."""

import torch

from memorization.observation import FIRST_STEPS, token_groups
from noise_norms import noise_diff_norm


def token_gradients(trace):
    """Norm of the gradient of D with respect to each token of the CONDITIONAL embedding, (images, tokens).

    Wen et al. (ICLR 2024), token significance, as a mean over those of the first three steps that are kept, of a
    correctly guided trajectory; the released code steers away from the prompt there. Costs an evaluation and a
    gradient an image and step.
    """
    pipe, first = trace.pipe, [trace.steps[k] for k in sorted(trace.steps) if k < FIRST_STEPS]
    total = 0
    for step in first:
        with torch.enable_grad():
            text = trace.embeds[1].detach().requires_grad_()
            output = pipe.predict_noise(step.latents, step.timestep, (text,)).outputs[0]
            magnitude = noise_diff_norm(step.prediction.noise_scale * (output - step.prediction.outputs[0]))
            (gradient,) = torch.autograd.grad(magnitude.sum(), text)
        pipe.num_unet_gradients += len(text)
        total = total + gradient.float().norm(dim=2) / len(first)
    return total


def token_significance(trace):
    """`token_gradients` summed over the begin token, the words, the end token and the padding."""
    norms = token_gradients(trace)
    return {f"token_significance_{name}": (norms * group).sum(1) for name, group in token_groups(trace, norms).items()}
