"""Mitigated generation of one prompt's images: modify the prompt at the first step, then denoise.

Each image takes its own way: one that is not triggered is generated plainly with two branches, one
that is re-anchored with three.
"""

from dataclasses import dataclass
from functools import partial

import torch

from local_sd_pipeline import classifier_free_guidance
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
    """

    guidance_scale: float = 7.5
    num_inference_steps: int = 50
    batch_size: int = 16
    optim_target_loss: float | None = None
    optim_lr: float = 0.05
    optim_iters: int = 10
    l_target_ss: float | None = None
    l_target_pr: float | None = None
    mag_thres_pr: float | None = None
    rand_noise_lam: float | None = None
    use_mask: bool = False
    pr_mask: bool = False

    @classmethod
    def from_args(cls, args):
        names = cls.__dataclass_fields__.keys() - {"use_mask"}
        return cls(**{name: getattr(args, name) for name in names}, use_mask=args.run_version == "ours_A")


@dataclass(frozen=True)
class Mitigated:
    """Final latents (images, channels, height, width) and, per image, a dict of lists of what happened."""

    latents: torch.Tensor
    report: dict


def mitigate(pipe, options, candidates, negative_prompt_embeds, latents, seeds, mask=None):
    """Generate a prompt's images with the methods that `options` switch on.

    SS comes first and PE starts from what it chose; PR anchors on the original prompt.

    Args:
        candidates: embeddings of the prompt and its alternatives, (candidates, tokens, dim).
        negative_prompt_embeds: shape (1, tokens, dim).
        latents: initial noise, shape (images, channels, height, width).
        seeds: one integer per image.
        mask: bright-ending mask (images, 1, height, width), for `use_mask` and `pr_mask`.

    Returns:
        `Mitigated`; its report has magnitude_before and magnitude_after at the first step, triggered,
        and where they apply choice (SS) and iterations (PE).
    """
    count = len(latents)
    negative = negative_prompt_embeds.expand(count, -1, -1)
    original = candidates[:1].expand(count, -1, -1)
    modified, report = modify_prompt(pipe, options, candidates, negative, latents, seeds, mask)
    reanchored = report["triggered"] if options.l_target_pr is not None else torch.zeros(count, dtype=torch.bool)
    final, after = torch.empty_like(latents), torch.empty(count)
    for rows in (reanchored.nonzero()[:, 0], (~reanchored).nonzero()[:, 0]):
        if len(rows):
            embeds = [negative[rows], original[rows], modified[rows]]
            some_mask = None if mask is None else mask[rows]
            final[rows], after[rows] = generate_group(
                pipe, options, latents[rows], embeds, bool(reanchored[rows[0]]), some_mask
            )
    report["magnitude_after"] = after
    report.setdefault("magnitude_before", after)
    return Mitigated(final, {k: v.tolist() for k, v in report.items()})


def modify_prompt(pipe, options, candidates, negative, latents, seeds, mask):
    """The embeddings to generate with, (images, tokens, dim), and what was measured on the way."""
    count = len(latents)
    embeds = candidates[:1].expand(count, -1, -1)
    never = {"triggered": torch.zeros(count, dtype=torch.bool)}
    noise, search, optimise = options.rand_noise_lam, options.l_target_ss, options.optim_target_loss
    if noise is not None:
        return add_embedding_noise(embeds, noise, seeds.tolist()), never
    if search is None and optimise is None:
        return embeds, never
    t = first_timestep(pipe, options.num_inference_steps)
    uncond = predict_uncond(pipe, latents, t, negative)
    report, measured_on = {}, mask if options.use_mask else None
    if search is not None:
        found = semantic_search(pipe, latents, t, candidates, uncond, search, measured_on, options.batch_size)
        embeds = candidates[found.choice]
        report = {"magnitude_before": found.magnitudes[:, 0], "triggered": found.triggered, "choice": found.choice}
    if optimise is not None:
        lr, iters = options.optim_lr, options.optim_iters
        result = optimize_prompt_embeds(pipe, latents, t, embeds, uncond, measured_on, lr, iters, optimise)
        embeds, first = result.prompt_embeds, torch.tensor([losses[0] for losses in result.losses])
        report = {"magnitude_before": first, "triggered": first > optimise} | report
        report["iterations"] = torch.tensor([len(losses) for losses in result.losses])
    return embeds, {k: v.cpu() for k, v in report.items()}


def generate_group(pipe, options, latents, embeds, reanchored, mask):
    """Final latents of images that share a guidance, and their first-step magnitude (images,)."""
    negative, original, modified = embeds
    if reanchored:
        pr_mask = mask if options.pr_mask else None
        guidance = PromptReanchoring(options.guidance_scale, options.l_target_pr, options.mag_thres_pr, pr_mask)
        branches, branch = (negative, original, modified), 2
    else:
        guidance = partial(classifier_free_guidance, guidance_scale=options.guidance_scale)
        branches, branch = (negative, modified), 1
    magnitudes = []

    def watch(step):
        if step.index == 0:
            magnitudes.append(noise_diff_norm(step.prediction.diff(branch, 0), mask if options.use_mask else None))

    steps = options.num_inference_steps
    final = pipe.generate(latents, branches, callback=watch, num_inference_steps=steps, guidance=guidance)
    return final, magnitudes[0].cpu()
