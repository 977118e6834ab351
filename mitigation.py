"""Mitigated generation of a batch of images, of any prompts: modify the prompt at the first step, then denoise.

Each image takes its own way: one that is not triggered is generated plainly with two branches, one
that is re-anchored with three.
"""

from dataclasses import dataclass
from functools import partial

import torch

from guidance import classifier_free_guidance
from metrics import noise_diff_norm
from optim_utils import (
    PromptReanchoring,
    add_embedding_noise,
    first_timestep,
    optimize_prompt_embeds,
    predict_uncond,
    semantic_search,
)


@dataclass(frozen=True)
class MitigationOptions:
    """Strengths of the methods; None switches a method off. With all off, generation is plain.

    Attributes:
        optim_target_loss: PE stops at or below this magnitude (with optim_lr, optim_iters).
        l_target_ss: SS looks for a prompt at or below this magnitude.
        l_target_pr, mag_thres_pr: PR re-anchors above the first, fully from the second.
        rand_noise_lam: GNI, scale of Gaussian noise on the prompt embedding.
        use_mask: magnitudes at the first step are weighted by the bright-ending mask.
        pr_mask: PR acts only where the mask is bright.
        ordinary_text: embeddings of prompts that are not memorized, (prompts, tokens, dim), for `neuron_off`.
    """

    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    optim_target_loss: float | None = None
    optim_lr: float = 0.05
    optim_iters: int = 10
    l_target_ss: float | None = None
    l_target_pr: float | None = None
    mag_thres_pr: float | None = None
    rand_noise_lam: float | None = None
    use_mask: bool = False
    pr_mask: bool = False
    ordinary_text: torch.Tensor | None = None

    @classmethod
    def from_args(cls, args, ordinary_text=None):
        names = cls.__dataclass_fields__.keys() - {"use_mask", "ordinary_text"}
        return cls(
            **{name: getattr(args, name) for name in names},
            use_mask=args.run_version == "ours_A",
            ordinary_text=ordinary_text,
        )


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


def mitigate(pipe, options, images):
    """Generate images with the methods that `options` switch on.

    SS comes first and PE starts from what it chose; PR anchors on the original prompt.

    Args:
        images: an `ImageBatch`.

    Returns:
        `Mitigated`; its report has magnitude_before and magnitude_after at the first step, triggered,
        unet_evals (evaluations spent on the image), and where they apply choice (SS) and iterations (PE).
    """
    count, steps = len(images), options.num_inference_steps
    modified, report = modify_prompt(pipe, options, images)
    reanchored = torch.tensor(report["triggered"]) & (options.l_target_pr is not None)
    final, after = torch.empty_like(images.latents), torch.empty(count)
    for rows in (reanchored.nonzero()[:, 0], (~reanchored).nonzero()[:, 0]):
        if len(rows):
            final[rows], after[rows] = generate_group(pipe, options, images, modified, rows, bool(reanchored[rows[0]]))
    report["unet_evals"] = [e + (3 if r else 2) * steps for e, r in zip(report["unet_evals"], reanchored, strict=True)]
    report["magnitude_after"] = after.tolist()
    report.setdefault("magnitude_before", report["magnitude_after"])
    return Mitigated(final, report)


def modify_prompt(pipe, options, images):
    """The embeddings to generate with, (images, tokens, dim), and what was measured on the way, lists by name."""
    count, search, optimise = len(images), options.l_target_ss, options.optim_target_loss
    embeds, report = images.embeds(), {"triggered": [False] * count, "unet_evals": [0] * count}
    if options.rand_noise_lam is not None:
        return add_embedding_noise(embeds, options.rand_noise_lam, images.seeds), report
    if search is None and optimise is None:
        return embeds, report
    t = first_timestep(pipe, options.num_inference_steps)
    uncond = predict_uncond(pipe, images.latents, t, images.negatives(count))
    mask, evals = images.mask if options.use_mask else None, [1] * count
    if search is not None:
        found = semantic_search(pipe, images.latents, t, images.candidates, uncond, search, mask)
        embeds = images.embeds(found.choice)
        report = {"magnitude_before": [m[0] for m in found.magnitudes], "triggered": found.triggered}
        report["choice"], evals = found.choice, [e + len(m) for e, m in zip(evals, found.magnitudes, strict=True)]
    if optimise is not None:
        lr, iters = options.optim_lr, options.optim_iters
        result = optimize_prompt_embeds(pipe, images.latents, t, embeds, uncond, mask, lr, iters, optimise)
        embeds, first = result.prompt_embeds, [losses[0] for losses in result.losses]
        if search is None:
            report = {"magnitude_before": first, "triggered": [m > optimise for m in first]}
        report["iterations"] = [len(losses) for losses in result.losses]
        evals = [e + k for e, k in zip(evals, report["iterations"], strict=True)]
    return embeds, report | {"unet_evals": evals}


def generate_group(pipe, options, images, modified, rows, reanchored):
    """Final latents of the images at `rows`, which share a guidance, and their first-step magnitude (images,)."""
    negative, mask = images.negatives(len(rows)), None if images.mask is None else images.mask[rows]
    if reanchored:
        pr_mask = mask if options.pr_mask else None
        guidance = PromptReanchoring(options.guidance_scale, options.l_target_pr, options.mag_thres_pr, pr_mask)
        branches, branch = (negative, images.embeds()[rows], modified[rows]), 2
    else:
        guidance = partial(classifier_free_guidance, guidance_scale=options.guidance_scale)
        branches, branch = (negative, modified[rows]), 1
    magnitudes = []

    def watch(step):
        if step.index == 0:
            magnitudes.append(noise_diff_norm(step.prediction.diff(branch, 0), mask if options.use_mask else None))

    steps = options.num_inference_steps
    final = pipe.generate(images.latents[rows], branches, callback=watch, num_inference_steps=steps, guidance=guidance)
    return final, magnitudes[0].cpu()
