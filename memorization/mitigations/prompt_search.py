"""Other embeddings at the first step: PE, SS, PR and their combinations.

Each image takes its own way: one that is not triggered is generated plainly with two branches, one
that is re-anchored with three.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from memorization.mitigations.base import Flags, mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, denoise_with
from memorization.needs import GUIDANCE
from memorization.released import SD1, SD2
from optim_utils import (
    PromptReanchoring,
    first_timestep,
    optimize_prompt_embeds,
    predict_uncond,
    semantic_search,
)

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

CHEN = "Chen et al., CVPR 2025"
TARGETS, BUNDLED_TARGETS = (5, 4, 3, 2, 1), (1.8, 1.2, 0.8, 0.5, 0.3)
PRSS_TARGETS, BUNDLED_PRSS_TARGETS = (2, 1.5, 1, 0.7, 0.4), (0.6, 0.4, 0.25, 0.15, 0.1)
TARGET = "target magnitude: lower is stronger, 0 is off"
PRSS_TARGET = "target magnitude s of SS, with 3 s and 5 s for PR: lower is stronger, 0 is off"


def flags_of_pe(target: float) -> Flags:
    return {"optim_target_loss": target}


def flags_of_ss(target: float) -> Flags:
    return {"l_target_ss": target}


def flags_of_prss(target: float) -> Flags:
    """The released code's 1, 3 and 5, times the target."""
    return {"l_target_ss": target, "l_target_pr": 3 * target, "mag_thres_pr": 5 * target}


@mitigation(
    "pe",
    knob=TARGET,
    source="Wen et al., ICLR 2024",
    stronger="less",
    sweep=TARGETS,
    bundled_sweep=BUNDLED_TARGETS,
    cost=lambda target, steps: 1 + 10,
    variants=("be",),
    released={
        SD1: {"lr": 0.05, "iterations": 10, "lowest target": 1, "highest target": 5},
        SD2: {"lr": 0.05, "iterations": 10, "lowest target": 1, "highest target": 2},
    },
    flags=flags_of_pe,
)
def prompt_optimisation(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Optimises the prompt embedding until the magnitude of the first step is at the target."""
    return search_prompt(pipe, replace(options, **flags_of_pe(strength)), images)


@mitigation(
    "ss",
    knob=TARGET,
    source=CHEN,
    stronger="less",
    sweep=TARGETS,
    bundled_sweep=BUNDLED_TARGETS,
    cost=lambda target, steps: 2,
    variants=("be",),
    released={SD1: {"strength": 1}},
    flags=flags_of_ss,
)
def paraphrase_search(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Takes the first paraphrase whose magnitude is at the target or below, else the lowest."""
    return search_prompt(pipe, replace(options, **flags_of_ss(strength)), images)


@mitigation(
    "prss",
    knob=PRSS_TARGET,
    source=CHEN,
    stronger="less",
    sweep=PRSS_TARGETS,
    bundled_sweep=BUNDLED_PRSS_TARGETS,
    cost=lambda target, steps: 2 + steps,
    variants=("be", "prmask"),
    released={SD1: {"strength": 1, "l_target_ss": 1, "l_target_pr": 3, "mag_thres_pr": 5}},
    flags=flags_of_prss,
    needs=(GUIDANCE,),
)
def search_and_reanchoring(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Searches a paraphrase and moves away from the original prompt where that is still above the target."""
    return search_prompt(pipe, replace(options, **flags_of_prss(strength)), images)


@dataclass(frozen=True)
class ModifiedPrompt:
    """What becomes of the prompts of a batch before it is generated.

    Attributes:
        embeds: what is generated with, (images, tokens, dim).
        triggered: which images' own magnitude exceeds the target.
        evals: evaluations spent on each image.
        magnitude_before: of the original prompts; None where it was not measured.
        choice: candidate that SS chose.
        iterations: of PE.
    """

    embeds: torch.Tensor
    triggered: Sequence[bool]
    evals: Sequence[int]
    magnitude_before: list[float] | None = None
    choice: list[int] | None = None
    iterations: list[int] | None = None


def search_prompt(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch) -> Mitigated:
    """Generate images with the methods that `options` switch on; with all off, generation is plain.

    SS comes first and PE starts from what it chose; PR anchors on the original prompt.
    """
    modified = modify_prompt(pipe, options, images)
    reanchored = torch.tensor(modified.triggered) & (options.l_target_pr is not None)
    final, after = torch.empty_like(images.latents), [0.0] * len(images)
    for rows in (reanchored.nonzero()[:, 0], (~reanchored).nonzero()[:, 0]):
        if len(rows):
            final[rows], some = generate_group(pipe, options, images, modified.embeds, rows, bool(reanchored[rows[0]]))
            for row, magnitude in zip(rows.tolist(), some, strict=True):
                after[row] = magnitude
    branches = [3 if r else 2 for r in reanchored.tolist()]
    steps = options.num_inference_steps
    return Mitigated(
        final,
        magnitude_before=after if modified.magnitude_before is None else modified.magnitude_before,
        magnitude_after=after,
        triggered=list(modified.triggered),
        unet_evals=[e + b * steps for e, b in zip(modified.evals, branches, strict=True)],
        choice=modified.choice,
        iterations=modified.iterations,
    )


def modify_prompt(pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch) -> ModifiedPrompt:
    """The embeddings to generate with, and what was measured on the way."""
    unchanged = ModifiedPrompt(images.embeds(), [False] * len(images), [0] * len(images))
    if options.l_target_ss is None and options.optim_target_loss is None:
        return unchanged
    t = first_timestep(pipe, options.num_inference_steps)
    uncond = predict_uncond(pipe, images.latents, t, images.negatives())
    modified = replace(unchanged, evals=[1] * len(images))
    if options.l_target_ss is not None:
        modified = searched(pipe, options, images, t, uncond, modified)
    if options.optim_target_loss is not None:
        modified = optimised(pipe, options, images, t, uncond, modified)
    return modified


def searched(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    t: float,
    uncond: torch.Tensor,
    modified: ModifiedPrompt,
) -> ModifiedPrompt:
    """SS: each image's prompt becomes the candidate that it settles for."""
    mask, target = images.mask if options.use_mask else None, options.l_target_ss
    assert target is not None
    found = semantic_search(pipe, images.latents, t, images.candidates, uncond, target, mask)
    return replace(
        modified,
        embeds=images.embeds(found.choice),
        triggered=found.triggered,
        evals=[e + len(m) for e, m in zip(modified.evals, found.magnitudes, strict=True)],
        magnitude_before=[m[0] for m in found.magnitudes],
        choice=found.choice,
    )


def optimised(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    t: float,
    uncond: torch.Tensor,
    modified: ModifiedPrompt,
) -> ModifiedPrompt:
    """PE from where the prompt is; alone, it decides what is triggered."""
    mask, target = images.mask if options.use_mask else None, options.optim_target_loss
    assert target is not None
    result = optimize_prompt_embeds(
        pipe, images.latents, t, modified.embeds, uncond, mask, options.optim_lr, options.optim_iters, target
    )
    iterations = [len(losses) for losses in result.losses]
    found = replace(
        modified,
        embeds=result.prompt_embeds,
        evals=[e + k for e, k in zip(modified.evals, iterations, strict=True)],
        iterations=iterations,
    )
    if modified.magnitude_before is not None:
        return found
    first = [losses[0] for losses in result.losses]
    return replace(found, magnitude_before=first, triggered=[m > target for m in first])


def generate_group(
    pipe: "DenoisingPipeline",
    options: MitigationOptions,
    images: ImageBatch,
    modified: torch.Tensor,
    rows: torch.Tensor,
    reanchored: bool,
) -> tuple[torch.Tensor, list[float]]:
    """Final latents of the images at `rows`, which share a guidance, and their magnitudes at the first step."""
    some, text = images.at(rows), modified[rows]
    mask = some.mask if options.use_mask else None
    if not reanchored:
        return denoise_with(pipe, options, some, text=text, mask=mask)
    target, trigger = options.l_target_pr, options.mag_thres_pr
    assert target is not None and trigger is not None
    pr_mask = some.mask if options.pr_mask else None
    guidance = PromptReanchoring(options.guidance_scale, target, trigger, pr_mask)
    # The branches of PR are uncond, original, modified: the modified one is measured.
    return denoise_with(
        pipe, options, some, branches=(some.negatives(), some.embeds(), text), guidance=guidance, measured=2, mask=mask
    )
