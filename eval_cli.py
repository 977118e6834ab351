"""Command line of eval_mem.py."""

import argparse
from pathlib import Path

import torch

from cli_args import add_evaluators
from cli_types import Switch, device_name, natural_int, positive_int
from eval_detection import HORIZONS, SCORES


def horizon(text):
    """T as a whole number from 1 on, or None for `all`."""
    return None if text == "all" else positive_int(text)


def rate(text):
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def evaluation_device(text):
    """A device that is there; auto takes CUDA, then the CPU."""
    name, has_cuda = device_name(text), torch.cuda.is_available()
    if name.startswith("cuda") and not has_cuda:
        raise argparse.ArgumentTypeError(f"{text} is not there; leave --device at cpu")
    return ("cuda" if has_cuda else "cpu") if name == "auto" else name


def eval_parser(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    add_detection(commands)
    add_localisation(commands)
    add_mitigation(commands)
    add_damage(commands)
    add_audit(commands)
    add_report(commands)
    return parser


def add_command(commands, name, text, output):
    parser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--output", type=Path, default=Path(output), help="where tables and figures go")
    parser.add_argument("--bootstrap", type=positive_int, default=1000, help="resamples for the 95 %% intervals")
    parser.add_argument("--bootstrap_seed", type=natural_int, default=0, help="seed of the resampling")
    return parser


def add_detection(commands):
    text = "AUC, TPR at a low FPR, F1 and accuracy of every score, per image and per prompt"
    parser = add_command(commands, "detection", text, "eval_outputs/detection")
    parser.add_argument("--mem", type=Path, nargs="+", required=True, help="result files of memorized prompts")
    parser.add_argument(
        "--nonmem", type=Path, nargs="+", default=[], help="of others; may be left out where --mem is labelled"
    )
    parser.add_argument(
        "--num_images", type=positive_int, nargs="+", default=[None], help="first images of each prompt to use"
    )
    parser.add_argument("--horizons", type=horizon, nargs="+", default=list(HORIZONS), help="T: first steps, or all")
    parser.add_argument("--kinds", type=Path, help="kinds of the memorized prompts, .csv or .jsonl, as NeMo's labels")
    group = parser.add_argument_group("threshold")
    group.add_argument("--calibrate", type=rate, help="write a threshold for this false positive rate per prompt")
    group.add_argument("--score", default="D", help=f"score that is decided by: {', '.join(SCORES)}, or a row's key")
    group.add_argument("--horizon", type=horizon, default=1, help="its T: a number or all")
    group.add_argument("--threshold_file", type=Path, help="where it goes; default threshold.json in --output")


def add_localisation(commands):
    text = "pixel AUROC, average precision and IoU of bright-ending masks and their rivals against true masks"
    parser = add_command(commands, "localisation", text, "eval_outputs/localisation")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of detect_mem.py --store_maps")
    parser.add_argument("--dataset", help="prompt set with gt_masks; default that of the run")
    parser.add_argument("--masks", type=Path, help="folder of true masks, INDEX.png, as of Webster's templates")


def add_mitigation(commands):
    text = "privacy (SSCD, LS, S) against utility (CLIP) of mitigation runs of the same prompts and seeds"
    parser = add_command(commands, "mitigation", text, "eval_outputs/mitigation")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of inference_mem.py")
    add_measuring(parser)


def add_damage(commands):
    text = "what mitigations do to ordinary prompts: runs of the same prompts and seeds beside plain generation"
    parser = add_command(commands, "damage", text, "eval_outputs/damage")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of inference_mem.py, a plain one among them")
    add_evaluators(parser)
    add_device(parser)


def add_audit(commands):
    text = "which hidden memories come back from a searched prompt embedding"
    parser = add_command(commands, "audit", text, "eval_outputs/audit")
    parser.add_argument("--own", type=Path, nargs="+", required=True, help="result files from the prompts themselves")
    parser.add_argument("--audited", type=Path, nargs="+", required=True, help="of inference_mem.py --prompt_embeds")
    parser.add_argument("--control", type=Path, nargs="+", default=[], help="the same for pictures never trained on")
    parser.add_argument("--dataset", help="prompt set with training images; default that of the run")
    add_evaluators(parser)
    add_device(parser)


def add_report(commands):
    text = "one HTML page of any result files, with everything in it"
    parser = add_command(commands, "report", text, "eval_outputs/report.html")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="result files of either script")
    parser.add_argument("--title", default="Memorization report", help="heading of the page")
    add_measuring(parser)


def add_measuring(parser):
    parser.add_argument("--dataset", help="prompt set with training images; default that of the run")
    add_evaluators(parser)
    parser.add_argument("--lpips", action=Switch, default=False, help="LPIPS as well, from the package lpips")
    parser.add_argument("--masks", type=Path, help="bright-ending masks for LS; default attn_data/mit_attn_scores.npz")
    add_device(parser)


def add_device(parser):
    parser.add_argument("--device", type=evaluation_device, default="cpu", help="cpu, cuda, cuda:N, mps or auto")
