"""Mitigated generation of a batch of images, of any prompts: modify the prompt at the first step, then denoise.

Each image takes its own way: one that is not triggered is generated plainly with two branches, one
that is re-anchored with three.
"""

from functools import partial

import torch

from local_sd_pipeline import classifier_free_guidance
from memorization.mitigations.base import Mitigated
from noise_norms import noise_diff_norm
from optim_utils import (
    PromptReanchoring,
    add_embedding_noise,
    first_timestep,
    optimize_prompt_embeds,
    predict_uncond,
    semantic_search,
)


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
