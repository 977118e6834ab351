"""Published mitigations that `inference_mem.py --method` chooses, each with one knob, `--strength`.

At strength 0 every one of them is plain generation, bit for bit. They act on every image, memorized or not: what that
does to ordinary prompts is a matter of measurement.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from attn_utils import edit_cross_attention
from local_sd_pipeline import classifier_free_guidance
from noise_norms import noise_diff_norm


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


@dataclass(frozen=True)
class ImageBatch:
    """What a batch of images is made from; the images may be of different prompts.

    Attributes:
        latents: initial noise, shape (images, channels, height, width).
        seeds: one integer per image.
        candidates: per image the embeddings of its prompt and of the alternatives, (its candidates, tokens, dim).
        negative: the empty prompt's embedding, shape (1, tokens, dim).
        mask: bright-ending mask (images, 1, height, width), for `use_mask` and `pr_mask`.
        prompts, end_tokens: per image its prompt and the index of its end token, for methods that look at padding.
    """

    latents: torch.Tensor
    seeds: list
    candidates: list
    negative: torch.Tensor
    mask: torch.Tensor | None = None
    prompts: list = ()
    end_tokens: list = ()

    def __len__(self):
        return len(self.latents)

    def chunks(self, size):
        """The batch in pieces of at most `size` images."""
        return [self.part(slice(k, k + size)) for k in range(0, len(self), size)]

    def part(self, some):
        mask = None if self.mask is None else self.mask[some]
        words = self.prompts[some], self.end_tokens[some]
        return ImageBatch(self.latents[some], self.seeds[some], self.candidates[some], self.negative, mask, *words)

    def embeds(self, choice=None):
        """Embedding of each image's prompt, or of the chosen candidate, (images, tokens, dim)."""
        return torch.stack([c[k] for c, k in zip(self.candidates, choice or [0] * len(self), strict=True)])

    def negatives(self, count):
        return self.negative.expand(count, -1, -1)


@dataclass(frozen=True)
class Mitigated:
    """Final latents (images, channels, height, width) and a dict of lists, one entry an image, of what happened."""

    latents: torch.Tensor
    report: dict


def generate(pipe, options, images, latents=None, text=None, guidance=None, edit=None, original=False, evals=0):
    """Denoise with what a method changed.

    Args:
        latents: other starting noise.
        text: other prompt embeddings, (images, tokens, dim).
        guidance: another guidance function.
        edit: a `CrossAttentionEdit` of branch 1.
        original: have the unchanged prompt as a third branch.
        evals: evaluations an image before, a number or a list.
    """
    count, steps = len(images), options.num_inference_steps
    branches = (images.negatives(count), images.embeds() if text is None else text)
    branches += (images.embeds(),) if original else ()
    guidance = guidance or partial(classifier_free_guidance, guidance_scale=options.guidance_scale)
    first = []

    def watch(step):
        if step.index == 0:
            first.append(noise_diff_norm(step.noise_diff))

    with nullcontext() if edit is None else edit_cross_attention(pipe.unet, edit):
        final = pipe.generate(
            images.latents if latents is None else latents, branches, callback=watch, guidance=guidance,
            num_inference_steps=steps,
        )  # fmt: skip
    evals = evals if isinstance(evals, list) else [evals] * count
    magnitudes = first[0].tolist()
    report = {"triggered": [True] * count, "unet_evals": [e + len(branches) * steps for e in evals]}
    return Mitigated(final, report | {"magnitude_before": magnitudes, "magnitude_after": magnitudes})
