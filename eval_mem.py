"""Evaluate finished runs from their result files; no diffusion model is loaded, a laptop does.

    python eval_mem.py detection --mem det_outputs/A_ours.jsonl --nonmem det_outputs/B_ours.jsonl
    python eval_mem.py decisions det_outputs/A_ours.jsonl --controls det_outputs/B_ours.jsonl --fdr 0.05
    python eval_mem.py localisation det_outputs/A_ours.jsonl
    python eval_mem.py mitigation det_outputs/*_mitigation.jsonl --sscd sscd_disc_large.torchscript.pt
    python eval_mem.py damage ordinary/det_outputs/*_mitigation.jsonl --reference_model ViT-g-14
    python eval_mem.py audit --own det_outputs/A_mitigation.jsonl --audited det_outputs/B_mitigation.jsonl --sscd FILE
    python eval_mem.py copies det_outputs/A_ours.jsonl --controls det_outputs/B_ours.jsonl --sscd FILE
    python eval_mem.py retrieval det_outputs/A_ours.jsonl --index INDEX
    python eval_mem.py report det_outputs/*.jsonl

Each prints its tables and writes them to --output with the same numbers as JSON and the figures as PNG.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from memorization.data.kinds import read_kinds
from memorization.errors import InputError, exit_on_input_error, input_errors
from memorization.evaluation.classes import classes_of, relabel
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.copies import CopySettings
from memorization.evaluation.decisions import Decisions
from memorization.evaluation.retrieval import RetrievalSettings, read_source
from memorization.evaluation.statistics import BootstrapSettings
from memorization.evaluation.thresholds import Threshold, calibrate
from memorization.files.whole import make_folder, write_text
from memorization.finished_runs import Run, check_comparable, masks_for, read_run
from memorization.plugins import add_plugin_option, load_plugins
from memorization.report.copies_section import copies_section
from memorization.report.page import build_report
from memorization.report.retrieval_section import retrieval_section
from memorization.report.section import Section
from memorization.report.sections import (
    audit_section,
    damage_section,
    decisions_section,
    detection_section,
    localisation_section,
    mitigation_section,
)
from memorization.runs.arguments import (
    HelpFormatter,
    Switch,
    add_decision_options,
    add_device,
    add_quality_options,
    horizon,
    natural_int,
    positive_int,
    rate,
)
from memorization.runs.retrieval_arguments import add_retrieval_options
from memorization.runs.settings import from_arguments
from memorization.scores import HORIZONS, key_of
from memorization.similarity.index.describers import open_as
from memorization.similarity.index.stored import open_index
from memorization.similarity.measure import EvaluatorSettings, add_copy_options, add_evaluator_options, open_evaluators


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        load_plugins(args.plugin)
        args.command(args)


# The command line


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    add_detection(commands)
    add_decisions(commands)
    add_localisation(commands)
    add_mitigation(commands)
    add_damage(commands)
    add_audit(commands)
    add_copies(commands)
    add_retrieval(commands)
    add_report(commands)
    return parser


def add_command(
    commands: argparse._SubParsersAction, command: Callable[[argparse.Namespace], None], text: str, output: str
) -> argparse.ArgumentParser:
    """A subcommand of a function's name, with what all of them share."""
    parser = commands.add_parser(command.__name__, help=text, description=text, formatter_class=HelpFormatter)
    parser.set_defaults(command=command)
    parser.add_argument("--output", type=Path, default=Path(output), help="where tables and figures go")
    add_plugin_option(parser)
    return parser


def add_bootstrap(parser: argparse.ArgumentParser) -> None:
    """Of commands that give means of images; the intervals of AUC and of shares need no resampling."""
    parser.add_argument("--bootstrap", type=positive_int, default=1000, help="resamples for the 95 %% intervals")
    parser.add_argument("--bootstrap_seed", type=natural_int, default=0, help="seed of the resampling")


def add_detection(commands: argparse._SubParsersAction) -> None:
    text = "AUC, TPR at a low FPR, F1 and accuracy of every score, per image and per prompt"
    parser = add_command(commands, detection, text, "eval_outputs/detection")
    add = parser.add_argument
    add("--mem", type=Path, nargs="+", required=True, help="result files of memorized prompts")
    add("--nonmem", type=Path, nargs="+", default=[], help="of others; may be left out where --mem is labelled")
    add("--num_images", type=positive_int, nargs="+", default=[None], help="first images of each prompt to use")
    add("--horizons", type=horizon, nargs="+", default=list(HORIZONS), help="T: first steps, or all")
    add("--kinds", type=Path, help="kinds of the memorized prompts, .csv or .jsonl, as NeMo's labels")
    add = parser.add_argument_group("threshold").add_argument
    add("--calibrate", type=rate, help="write a threshold for this false positive rate per prompt")
    add("--score", default="D", help="score that is decided by: D, LD or another label of tables, or a row's key")
    add("--horizon", type=horizon, default=1, help="its T: a number or all")
    add("--threshold_file", type=Path, help="where it goes, instead of threshold.json in --output")


def add_decisions(commands: argparse._SubParsersAction) -> None:
    text = "which prompts are memorized, at a false discovery rate against control prompts"
    parser = add_command(commands, decisions, text, "eval_outputs/decisions")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of detect_mem.py, decided together")
    add_decision_options(parser.add_argument)


def add_localisation(commands: argparse._SubParsersAction) -> None:
    text = "pixel AUROC, average precision and IoU of bright-ending masks and their rivals against true masks"
    parser = add_command(commands, localisation, text, "eval_outputs/localisation")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of detect_mem.py --store_maps")
    parser.add_argument("--dataset", help="prompt set with gt_masks, instead of that of the run")
    parser.add_argument("--masks", type=Path, help="folder of true masks, INDEX.png, as of Webster's templates")
    add_bootstrap(parser)


def add_mitigation(commands: argparse._SubParsersAction) -> None:
    text = "privacy (SSCD, LS, S) against utility (CLIP) of mitigation runs of the same prompts and seeds"
    parser = add_command(commands, mitigation, text, "eval_outputs/mitigation")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of inference_mem.py")
    add_measuring(parser)


def add_damage(commands: argparse._SubParsersAction) -> None:
    text = "what mitigations do to ordinary prompts: runs of the same prompts and seeds beside plain generation"
    parser = add_command(commands, damage, text, "eval_outputs/damage")
    parser.add_argument("runs", type=Path, nargs="+", help="result files of inference_mem.py, a plain one among them")
    add_evaluator_options(parser)
    add_bootstrap(parser)
    add_device(parser)


def add_audit(commands: argparse._SubParsersAction) -> None:
    text = "which hidden memories come back from a searched prompt embedding"
    parser = add_command(commands, audit, text, "eval_outputs/audit")
    add = parser.add_argument
    add("--own", type=Path, nargs="+", required=True, help="result files from the prompts themselves")
    add("--audited", type=Path, nargs="+", required=True, help="of inference_mem.py --prompt_embeds")
    add("--control", type=Path, nargs="+", default=[], help="the same for pictures never trained on")
    add("--dataset", help="prompt set with training images, instead of that of the run")
    add_evaluator_options(parser)
    add_device(parser)


def add_copies(commands: argparse._SubParsersAction) -> None:
    text = "which images are copies: rank of the training picture, AUC and p-values against control generations"
    parser = add_command(commands, copies, text, "eval_outputs/copies")
    add = parser.add_argument
    add("runs", type=Path, nargs="+", help="result files of memorized prompts, with images, decided together")
    text = "result files of control captions, or of the model before it was trained on the pictures"
    add("--controls", type=Path, nargs="+", required=True, help=text)
    add("--dataset", help="prompt set with training images, instead of that of the run")
    add("--fdr", type=rate, default=0.05, help="false discovery rate: share of false ones among those called copies")
    add_copy_options(parser)
    add_bootstrap(parser)
    add_device(parser)


def add_retrieval(commands: argparse._SubParsersAction) -> None:
    text = "generations beside their most similar pictures of an indexed training set, and those among themselves"
    parser = add_command(commands, retrieval, text, "eval_outputs/retrieval")
    add_retrieval_options(parser)
    add_bootstrap(parser)
    add_device(parser)


def add_report(commands: argparse._SubParsersAction) -> None:
    text = "one HTML page of any result files, with everything in it"
    parser = add_command(commands, report, text, "eval_outputs/report.html")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="result files of either script")
    parser.add_argument("--title", default="Memorization report", help="heading of the page")
    text = "result files of control captions, for the section on copies; takes --sscd"
    parser.add_argument("--controls", type=Path, nargs="+", default=[], metavar="RUN", help=text)
    text = "pictures of tools/show_attention.py, each with its JSON beside it; repeatable"
    parser.add_argument("--attention", type=Path, nargs="+", action="extend", default=[], metavar="PNG", help=text)
    add_measuring(parser)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", help="prompt set with training images, instead of that of the run")
    add_evaluator_options(parser)
    parser.add_argument("--lpips", action=Switch, default=False, help="LPIPS as well, from the package lpips")
    parser.add_argument(
        "--masks", type=Path, help="bright-ending masks for LS, instead of attn_data/mit_attn_scores.npz"
    )
    add_quality_options(parser)
    add_bootstrap(parser)
    add_device(parser)


# The commands


def detection(args: argparse.Namespace) -> None:
    mem, nonmem = read_runs(args.mem), read_runs(args.nonmem)
    threshold = None
    if args.calibrate is not None:
        with input_errors():
            others = [part for parts in classes_of(mem, nonmem).sets.values() for part in parts]
            threshold = calibrate(others, key_of(args.score), args.horizon, args.calibrate)
    if args.kinds is not None:
        kinds = read_kinds(args.kinds)
        mem = [relabel(run, kinds, args.kinds) for run in mem]
    write(detection_section(mem, nonmem, args.num_images, args.horizons), args.output)
    if threshold is not None:
        write_threshold(threshold, args.score, args.threshold_file or args.output / "threshold.json")


def decisions(args: argparse.Namespace) -> None:
    if args.controls is None:
        raise InputError("decisions compare with control prompts: give a finished run of them by --controls")
    controls = controls_of_run(read_run(args.controls), key_of(args.score), args.horizon)
    write(decisions_section(read_runs(args.runs), Decisions(controls, args.fdr)), args.output)


def localisation(args: argparse.Namespace) -> None:
    runs = read_runs(args.runs)
    write(localisation_section(runs, args.dataset, args.masks, bootstrap_settings(args)), args.output)


def mitigation(args: argparse.Namespace) -> None:
    runs = read_runs(args.runs)
    check_comparable(runs)
    evaluators = open_evaluators(from_arguments(EvaluatorSettings, args), masks_for(runs, args.masks))
    write(mitigation_section(runs, evaluators, args.dataset, bootstrap_settings(args)), args.output)


def damage(args: argparse.Namespace) -> None:
    runs, evaluators = read_runs(args.runs), open_evaluators(from_arguments(EvaluatorSettings, args))
    write(damage_section(runs, evaluators, bootstrap_settings(args)), args.output)


def audit(args: argparse.Namespace) -> None:
    own, audited, control = (read_runs(paths) for paths in (args.own, args.audited, args.control))
    evaluators = open_evaluators(from_arguments(EvaluatorSettings, args))
    write(audit_section(own, audited, control, evaluators, args.dataset), args.output)


def copies(args: argparse.Namespace) -> None:
    settings = from_arguments(CopySettings, args)
    runs, controls = read_runs(args.runs), read_runs(args.controls)
    descriptor = from_arguments(EvaluatorSettings, args).open_descriptor()
    section = copies_section(runs, controls, descriptor, settings, args.dataset, bootstrap_settings(args))
    write(section, args.output)


def retrieval(args: argparse.Namespace) -> None:
    index, settings = open_index(args.index), from_arguments(RetrievalSettings, args)
    sources = [read_source(path) for path in args.runs] + [read_source(path, True) for path in args.controls]
    describer = open_as(index, args.sscd, args.sscd_preprocessing, args.device)
    wanted = from_arguments(EvaluatorSettings, args)
    clip, inception, bootstrap = wanted.open_clip(), wanted.open_inception(), bootstrap_settings(args)
    write(retrieval_section(sources, index, describer, clip, settings, bootstrap, args.device, inception), args.output)


def report(args: argparse.Namespace) -> None:
    runs = read_runs(args.runs)
    evaluators = open_evaluators(from_arguments(EvaluatorSettings, args), masks_for(runs, args.masks))
    make_folder(args.output.parent, "--output")
    bootstrap, controls = bootstrap_settings(args), read_runs(args.controls)
    page = build_report(runs, evaluators, args.title, args.dataset, bootstrap, controls, args.attention)
    write_text(args.output, page)
    print(f"{args.output}: {len(page) / 1e6:.1f} MB, needs nothing else")


def read_runs(paths: Sequence[Path]) -> list[Run]:
    return [read_run(path) for path in paths]


def bootstrap_settings(args: argparse.Namespace) -> BootstrapSettings:
    return BootstrapSettings(args.bootstrap, args.bootstrap_seed)


def write(section: Section, folder: Path) -> None:
    """Print the tables and keep everything of a section in a folder."""
    make_folder(folder, "--output")
    print(section.markdown(), end="\n\n")
    for path in section.save(folder):
        print(path)


def write_threshold(threshold: Threshold, score: str, path: Path) -> None:
    """Keep a threshold, and say what to do with the file."""
    make_folder(path.parent, "--threshold_file")
    write_text(path, threshold.save_text())
    told = f"T={threshold.T or 'all'}, {threshold.num_images} images per prompt, {threshold.num_negatives} controls"
    print(f"threshold {threshold.threshold:.4f} on {score}, {told}")
    print(f"{path}\nuse it by: python detect_mem.py --threshold_file {path} ...")


if __name__ == "__main__":
    main()
