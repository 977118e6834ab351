"""Guidance: how the predictions of the branches are combined, for `denoise`, which gets it passed in."""

import math

from metrics import noise_diff_norm


def classifier_free_guidance(prediction, guidance_scale):
    """Classifier-free guidance (Ho and Salimans, 2022) in the form Stable Diffusion uses."""
    uncond, text = prediction.outputs[:2]
    return uncond + guidance_scale * (text - uncond)


class DelayedGuidance:
    """No guidance in the first steps, ordinary classifier-free guidance after (Jain et al., CVPR 2025).

    Without guidance the unconditional prediction is followed. The transition is after a fixed number of steps, or
    `dynamic`: for each image where its D_t has its first local minimum, and after that number at the latest.
    """

    def __init__(self, guidance_scale, num_steps, dynamic=False):
        self.guidance_scale, self.num_steps, self.dynamic = guidance_scale, num_steps, dynamic
        self.index, self.before, self.guided = -1, None, None

    def __call__(self, prediction):
        self.index += 1
        ordinary = classifier_free_guidance(prediction, self.guidance_scale)
        if self.index >= self.num_steps:
            return ordinary
        uncond = prediction.outputs[0]
        if not self.dynamic:
            return uncond
        magnitude = noise_diff_norm(prediction.diff())
        # D_t rises again: the step before was the minimum. Once guided, an image stays so.
        risen = magnitude < 0 if self.before is None else magnitude > self.before
        self.guided = risen if self.guided is None else self.guided | risen
        self.before = magnitude
        return ordinary.where(self.guided.view(-1, 1, 1, 1), uncond)


class RepellingGuidance:
    """Towards an edited prediction and away from the original one (GUARD; Zhao et al., ICML 2026).

    eps = eps_u + s (eps+ - eps_u) - r d (eps- - eps_u) with branches uncond, edited (+), original (-), and
    d falling from 1 at the first step to 0 after the last along a cosine.
    """

    def __init__(self, guidance_scale, repulsion, num_inference_steps):
        self.guidance_scale, self.repulsion, self.steps, self.index = guidance_scale, repulsion, num_inference_steps, -1

    def __call__(self, prediction):
        self.index += 1
        uncond, edited, original = prediction.outputs
        decay = (1 + math.cos(math.pi * self.index / self.steps)) / 2
        return uncond + self.guidance_scale * (edited - uncond) - self.repulsion * decay * (original - uncond)
