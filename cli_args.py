"""Command lines of the two scripts: the original's words, with every flag doing what its help says."""

import argparse
from pathlib import Path

from cli_types import (
    Switch,
    device_name,
    file_name,
    finite_float,
    image_count,
    natural_float,
    natural_int,
    pixels,
    positive_float,
    positive_int,
    seed_int,
    word_count,
)
from methods import METHODS
from prompt_aug import AUGMENTATIONS
from run_utils import ROOT, InputError
from similarity import SSCD_PREPROCESSING

TRACKERS = ("jsonl", "tensorboard", "wandb", "trackio")  # the last three are accelerate's
PLANTED = ROOT / "examples"
# What --strength sets for the methods that have flags of their own; the others are in methods.py.
FLAGS_OF = {
    "pe": lambda s: {"optim_target_loss": s},
    "prss": lambda s: {"l_target_ss": s, "l_target_pr": s, "mag_thres_pr": 2 * s},
    "rna": lambda s: {"prompt_aug_style": "rand_numb_add", "repeat_num": round(s)},
    "rt": lambda s: {"prompt_aug_style": "rand_word_add", "repeat_num": round(s)},
    "cwr": lambda s: {"prompt_aug_style": "rand_word_repeat", "repeat_num": round(s)},
    "gni": lambda s: {"rand_noise_lam": s},
}


def common_parser():
    """Arguments of both scripts; use with `ArgumentParser(parents=[common_parser()])`."""
    parser = argparse.ArgumentParser(add_help=False)
    group = parser.add_argument_group("run")
    group.add_argument("--run_name", type=file_name, default="test", help="names the result files")
    group.add_argument("--dataset", help=".jsonl, *_groundtruth folder, folder of NNN.jpg + NNN.txt, `random`, hub id")
    group.add_argument("--prompt_key", help="column of the prompt in a Hugging Face data set")
    group.add_argument("--start", type=natural_int, default=0, help="first prompt by position")
    group.add_argument("--end", type=natural_int, default=500, help="one past the last prompt")
    group.add_argument("--clean_prompts", action=Switch, default=True, help="mend mojibake and HTML entities")
    group.add_argument("--overwrite", action=Switch, default=False, help="replace results of this run name")
    group.add_argument("--output_dir", type=Path, default=Path("."), help="where the three output folders are")
    group.add_argument(
        "--with_tracking", action=Switch, default=False, help="log pace, means and the final evaluation by --tracker"
    )
    group.add_argument(
        "--tracker",
        default="jsonl",
        choices=TRACKERS,
        help="jsonl: det_outputs/*.tracking.jsonl; others need a package",
    )
    group = parser.add_argument_group("model")
    group.add_argument("--model_id", default=str(PLANTED / "planted_sd"), help="diffusers folder or hub id")
    group.add_argument("--unet_id", help="folder or hub id of a fine-tuned UNet")
    group.add_argument(
        "--device", type=device_name, default="auto", help="auto (CUDA, MPS, CPU), cuda, cuda:N, mps, cpu"
    )
    group.add_argument("--dtype", default="auto", choices=("auto", "float32", "float16", "bfloat16"))
    group.add_argument("--channels_last", action=Switch, default=False, help="memory format, faster on many devices")
    group.add_argument("--compile", action=Switch, default=False, help="torch.compile: slow start, then faster")
    group = parser.add_argument_group("sampling")
    group.add_argument("--gen_seed", type=seed_int, default=0, help="image k of prompt i depends on this, i and k")
    group.add_argument(
        "--seed_mode", default="per_image", choices=("per_image", "original"),
        help="original: all images of a prompt from one generator seeded gen_seed + index, as the released code",
    )  # fmt: skip
    group.add_argument("--image_length", type=pixels, help="pixels; default is the model's own (512 for SD 1.x)")
    group.add_argument("--guidance_scale", type=finite_float, default=7.5)
    group.add_argument("--num_inference_steps", type=positive_int, default=50)
    group.add_argument("--batch_size", type=positive_int, default=16, help="images per UNet call, of several prompts")
    group = parser.add_argument_group("output")
    group.add_argument("--store_img_npz", action=Switch, default=True, help="all images as one npz")
    group.add_argument("--store_img_png", action=Switch, default=True, help="each image as PNG")
    return parser


def detect_parser(description):
    parser = make_parser(description)
    parser.set_defaults(dataset=str(PLANTED / "planted_prompts.jsonl"))
    parser.add_argument("--num_images_per_prompt", type=image_count, default=4)
    group = parser.add_argument_group("detection")
    group.add_argument(
        "--run_version", default="ours", choices=("baseline", "ours"),
        help="baseline: the global score D; ours: also LD and its two controls",
    )  # fmt: skip
    group.add_argument("--attn_scores", type=Path, help="take the masks from this npz: the original's two passes")
    group.add_argument(
        "--early_exit", type=positive_int, metavar="T",
        help="stop after T steps: D(T) alone, or with --attn_scores LD(T) too; no images, no masks",
    )  # fmt: skip
    group.add_argument("--scores", help="published signals to measure as well: all, or names with commas")
    group.add_argument(
        "--calibration", type=Path, metavar="ROWS", help="run of ordinary prompts that broken_memories is compared with"
    )
    group.add_argument("--store_attn_npz", action=Switch, default=True, help="bright-ending masks as npz")
    group.add_argument(
        "--store_all_tokens", action=Switch, default=False, help="every token's attention, in the original's layout"
    )
    group.add_argument(
        "--store_maps", action=Switch, default=False,
        help="for localisation: noise_diff^2 of every step, end-token and padding attention of every layer",
    )  # fmt: skip
    group.add_argument(
        "--threshold_file", type=Path, help="say memorized yes or no per prompt, by eval_mem.py detection --calibrate"
    )
    return parser


def check_detect_args(args):
    """Refuse combinations that mean nothing; what an early exit cannot give is switched off.

    Raises:
        InputError: one line per fault, the first found.
    """
    if args.attn_scores is not None and args.run_version == "baseline":
        raise InputError("--attn_scores is not used by --run_version baseline: add --run_version ours")
    if args.early_exit is None:
        return
    if args.early_exit > args.num_inference_steps:
        raise InputError(f"--early_exit {args.early_exit} is beyond --num_inference_steps {args.num_inference_steps}")
    if args.run_version == "ours" and args.attn_scores is None:
        raise InputError(
            "--early_exit ends before there is a bright-ending mask: "
            "add --run_version baseline, or masks by --attn_scores"
        )
    if args.store_maps or args.store_all_tokens:
        raise InputError("--store_maps and --store_all_tokens need the last step, which --early_exit leaves out")
    args.store_img_png = args.store_img_npz = args.store_attn_npz = False


def inference_parser(description):
    parser = make_parser(description)
    parser.set_defaults(dataset=str(PLANTED / "planted_mem_groundtruth"))
    parser.add_argument("--num_images_per_prompt", type=image_count, default=1)
    group = parser.add_argument_group("mitigation")
    group.add_argument(
        "--run_version", default="baseline", choices=("baseline", "ours_A"),
        help="ours_A: magnitudes are weighted by the bright-ending mask",
    )  # fmt: skip
    group.add_argument(
        "--prompt_embeds", type=Path, help="embeddings by prompt index instead of the prompts', by search_embeddings.py"
    )
    group.add_argument("--method", choices=(*FLAGS_OF, *METHODS), help="mitigation by name, instead of the flags below")
    group.add_argument("--strength", type=natural_float, help="the knob of --method, see the README; 0 switches it off")
    group.add_argument("--attn_scores", type=Path, help="masks for ours_A; default attn_data/mit_attn_scores.npz")
    group.add_argument("--optim_target_steps", type=natural_int, default=0, help="step that is measured; must be 0")
    group.add_argument(
        "--optim_target_loss",
        type=positive_float,
        help="PE, and methods that optimise the noise: down to this magnitude",
    )
    group.add_argument("--optim_lr", type=positive_float, default=0.05)
    group.add_argument("--optim_iters", type=positive_int, default=10)
    group.add_argument("--l_target_ss", type=positive_float, help="SS: search for a prompt at or below this")
    group.add_argument("--l_target_pr", type=positive_float, help="PR: re-anchor above this magnitude")
    group.add_argument("--mag_thres_pr", type=positive_float, help="PR: magnitude of full re-anchoring")
    group.add_argument("--pr_mask", action=Switch, default=False, help="PR only where the mask is bright (ours)")
    group.add_argument("--prompt_aug_style", choices=tuple(AUGMENTATIONS), help="perturb the prompt at random")
    group.add_argument("--repeat_num", type=word_count, default=1, help="words that --prompt_aug_style adds")
    group.add_argument("--rand_noise_lam", type=positive_float, help="GNI: scale of noise on the embedding")
    add_evaluators(parser.add_argument_group("evaluation at the end of a run, with --with_tracking"))
    return parser


def add_evaluators(group):
    """What images are measured with, here and in eval_mem.py."""
    group.add_argument("--sscd", type=Path, help="copy descriptor, a TorchScript file such as SSCD's")
    group.add_argument("--sscd_preprocessing", default="wen", choices=tuple(SSCD_PREPROCESSING))
    group.add_argument("--reference_model", help="open_clip model for CLIP similarity, or a folder with one")
    group.add_argument("--reference_model_pretrain", default="laion2b_s12b_b42k", help="its weights: tag or file")


def make_parser(description):
    return argparse.ArgumentParser(
        description=description, parents=[common_parser()], formatter_class=argparse.RawDescriptionHelpFormatter
    )


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


def check_inference_args(args):
    """Refuse combinations that mean nothing, after --method was turned into flags.

    Raises:
        InputError: one line per fault, the first found.
    """
    apply_method(args)
    if args.optim_target_steps != 0:
        raise InputError("--optim_target_steps must be 0: the methods are defined at the first step")
    if (args.l_target_pr is None) != (args.mag_thres_pr is None):
        raise InputError("--l_target_pr and --mag_thres_pr go together")
    if args.l_target_pr is not None and args.mag_thres_pr <= args.l_target_pr:
        raise InputError(f"--mag_thres_pr {args.mag_thres_pr} must exceed --l_target_pr {args.l_target_pr}")
    if args.l_target_pr is not None and args.l_target_ss is None and args.optim_target_loss is None:
        raise InputError("--l_target_pr needs a modified prompt: add --l_target_ss or --optim_target_loss")
    if args.pr_mask and args.l_target_pr is None:
        raise InputError("--pr_mask restricts re-anchoring: add --l_target_pr and --mag_thres_pr")
    perturbed = args.prompt_aug_style is not None or args.rand_noise_lam is not None
    if perturbed and (args.l_target_ss is not None or args.optim_target_loss is not None):
        raise InputError("--prompt_aug_style and --rand_noise_lam do not combine with PE, SS or PR")
    evaluators = args.sscd is not None or args.reference_model is not None
    if evaluators and not args.with_tracking:
        raise InputError("--sscd and --reference_model are used with --with_tracking; eval_mem.py measures later")
    if evaluators and not args.store_img_png and not args.store_img_npz:
        raise InputError("--sscd and --reference_model need the images: leave --store_img_png on")
    if args.prompt_embeds is not None and (args.prompt_aug_style is not None or args.method == "padding_fix"):
        name = args.method or f"--prompt_aug_style {args.prompt_aug_style}"
        raise InputError(f"{name} changes the words of a prompt, which --prompt_embeds takes the place of")
    if args.attn_scores is not None and not uses_masks(args):
        raise InputError("--attn_scores is not used here: add --run_version ours_A with PE or SS, or --pr_mask")


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
