"""Command lines of the two scripts: the original's words, with every flag doing what its help says."""

import argparse
import math
import re
from pathlib import Path

from prompt_aug import AUGMENTATIONS
from run_utils import ROOT, InputError
from similarity import SSCD_PREPROCESSING

TRACKERS = ("jsonl", "tensorboard", "wandb", "trackio")  # the last three are accelerate's
PLANTED = ROOT / "examples"
LARGEST_SEED = 2**32 - 1
LARGEST_COUNT = 10**12  # of whole numbers; beyond it they no longer fit where they go
LARGEST_IMAGE = 8192  # pixels
MAX_ADDED_WORDS = 1000
LONGEST_NAME = 150  # bytes; file systems end at 255, and endings are added
MAX_IMAGES = 1000  # run_utils.image_seed gives k three digits
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "1"}, {"false", "no", "0"}


class Switch(argparse.Action):
    """A boolean as `--flag`, `--no-flag`, `--flag True` or `--flag False`, as the original's users type it."""

    def __init__(self, option_strings, dest, **kwargs):
        negated = [f"--no-{o[2:]}" for o in option_strings]
        super().__init__([*option_strings, *negated], dest, nargs="?", metavar="BOOL", **kwargs)

    def __call__(self, parser, namespace, value, option_string=None):
        if option_string.startswith("--no-"):
            if value is not None:
                parser.error(f"{option_string} takes no value, not {value!r}")
            setattr(namespace, self.dest, False)
        elif value is None or value.lower() in TRUE_WORDS:
            setattr(namespace, self.dest, True)
        elif value.lower() in FALSE_WORDS:
            setattr(namespace, self.dest, False)
        else:
            parser.error(f"{option_string} takes true or false, not {value!r}")


def positive_int(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return at_most(value, LARGEST_COUNT)


def at_most(value, largest):
    if value > largest:
        raise argparse.ArgumentTypeError(f"{value} is above {largest}")
    return value


def pixels(text):
    return at_most(positive_int(text), LARGEST_IMAGE)


def word_count(text):
    return at_most(natural_int(text), MAX_ADDED_WORDS)


def file_name(text):
    """A name that files can be called by, in the folder they belong to."""
    if not text or text.startswith(".") or "/" in text or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is no name for files: use letters, digits, _ and -")
    if len(text.encode()) > LONGEST_NAME:
        raise argparse.ArgumentTypeError(f"a name of {len(text.encode())} bytes is longer than {LONGEST_NAME}")
    return text


def natural_int(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return at_most(value, LARGEST_COUNT)


def seed_int(text):
    value = natural_int(text)
    if value > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is above {LARGEST_SEED}")
    return value


def image_count(text):
    value = positive_int(text)
    if value > MAX_IMAGES:
        raise argparse.ArgumentTypeError(f"{text} is above {MAX_IMAGES}, where image seeds would repeat")
    return value


def finite_float(text):
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def device_name(text):
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is none of auto, cpu, cuda, cuda:N, mps")
    return text


def positive_float(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return value


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
    group.add_argument("--attn_scores", type=Path, help="masks for ours_A; default attn_data/mit_attn_scores.npz")
    group.add_argument("--optim_target_steps", type=natural_int, default=0, help="step that is measured; must be 0")
    group.add_argument("--optim_target_loss", type=positive_float, help="PE: optimise down to this magnitude")
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


def check_inference_args(args):
    """Refuse combinations that mean nothing.

    Raises:
        InputError: one line per fault, the first found.
    """
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
    if args.attn_scores is not None and not uses_masks(args):
        raise InputError("--attn_scores is not used here: add --run_version ours_A with PE or SS, or --pr_mask")


def uses_masks(args):
    """Whether the mitigation that the arguments ask for looks at bright-ending masks."""
    measures = args.l_target_ss is not None or args.optim_target_loss is not None
    return args.pr_mask or (args.run_version == "ours_A" and measures)


def method_name(args):
    """Short name of the mitigation that the arguments ask for, part of its file names."""
    perturbations = {"rand_numb_add": "rna", "rand_word_add": "rt", "rand_word_repeat": "cwr"}
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
