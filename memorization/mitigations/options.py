"""."""

from dataclasses import dataclass

import torch

from memorization.errors import InputError
from memorization.mitigations.registry import METHODS

# What --strength sets for the methods that have flags of their own; the others are in methods.py.
FLAGS_OF = {
    "pe": lambda s: {"optim_target_loss": s},
    "prss": lambda s: {"l_target_ss": s, "l_target_pr": s, "mag_thres_pr": 2 * s},
    "rna": lambda s: {"prompt_aug_style": "rand_numb_add", "repeat_num": round(s)},
    "rt": lambda s: {"prompt_aug_style": "rand_word_add", "repeat_num": round(s)},
    "cwr": lambda s: {"prompt_aug_style": "rand_word_repeat", "repeat_num": round(s)},
    "gni": lambda s: {"rand_noise_lam": s},
}


def apply_method(args):
    """Turn --method NAME --strength S into the flags of that method, where it has flags.

    Raises:
        InputError: if only one of them is given, or flags besides.
    """
    if (args.method is None) != (args.strength is None):
        raise InputError("--method and --strength go together")
    if args.method is None:
        return
    flags = {f for made in FLAGS_OF.values() for f in made(1)} - {"repeat_num"}
    if args.method in METHODS and METHODS[args.method].stops:
        flags -= {"optim_target_loss"}
    given = next((f for f in sorted(flags) if getattr(args, f) is not None), None)
    if given is not None or args.pr_mask and args.method not in FLAGS_OF:
        raise InputError(f"--method {args.method} does not combine with --{given or 'pr_mask'}")
    if args.method in METHODS:
        if args.strength > METHODS[args.method].largest:
            raise InputError(
                f"--strength of {args.method} is {METHODS[args.method].knob}, {METHODS[args.method].largest:g} at most"
            )
        return
    if args.strength:
        if "repeat_num" in FLAGS_OF[args.method](1) and args.strength != round(args.strength):
            raise InputError(f"--strength of {args.method} is a whole number of words")
        vars(args).update(FLAGS_OF[args.method](args.strength))
    args.method = args.strength = None


def uses_masks(args):
    """Whether the mitigation that the arguments ask for looks at bright-ending masks."""
    measures = args.method is None and (args.l_target_ss is not None or args.optim_target_loss is not None)
    return args.pr_mask or (args.run_version == "ours_A" and measures)


def method_name(args):
    """Short name of the mitigation that the arguments ask for, part of its file names."""
    perturbations = {"rand_numb_add": "rna", "rand_word_add": "rt", "rand_word_repeat": "cwr"}
    if args.method is not None:
        return args.method
    parts = []
    if args.prompt_aug_style is not None:
        parts.append(f"{perturbations[args.prompt_aug_style]}{args.repeat_num}")
    if args.rand_noise_lam is not None:
        parts.append("gni")
    if args.l_target_ss is not None:
        parts.append("ss")
    if args.optim_target_loss is not None:
        parts.append("pe")
    if args.l_target_pr is not None:
        parts.append("pr")
    name = "_".join(parts).replace("ss_pr", "prss") or "none"
    masked = "_be" if args.run_version == "ours_A" and parts else ""
    return name + masked + ("_prmask" if args.pr_mask else "")


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
