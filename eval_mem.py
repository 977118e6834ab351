"""Command line of eval_mem.py."""

import argparse
import json
from pathlib import Path

import torch

from memorization.data.kinds import read_kinds, relabel
from memorization.errors import exit_on_input_error, input_errors
from memorization.evaluation.audit import audit_tables, evaluate_audit
from memorization.evaluation.damage import damage_tables, evaluate_damage
from memorization.evaluation.detection import (
    INTERVALS,
    add_difference_to_first_step,
    detection_tables,
    evaluate_detection,
    evaluate_differences,
    label_rows,
    shared_scores,
)
from memorization.evaluation.localisation import (
    ORACLE,
    auroc_by_step,
    evaluate_localisation,
    localisation_tables,
    true_masks,
)
from memorization.evaluation.mitigation import evaluate_mitigation, load_references, mitigation_tables
from memorization.evaluation.thresholds import calibrate
from memorization.files.whole import make_folder, write_text
from memorization.finished_runs import check_comparable, read_run, strongest_runs
from memorization.report.figures import (
    cost_figure,
    default_horizons,
    distribution_figure,
    horizon_figure,
    overlay_figure,
    plt,
    roc_figure,
    steps_figure,
    strips_figure,
    theme,
    tradeoff_figure,
)
from memorization.report.page import build_report
from memorization.runs.arguments import Switch, device_name, natural_int, positive_int
from memorization.scores import HORIZONS, SCORES, is_published
from memorization.similarity.measure import add_evaluators, open_evaluators, open_models
from memorization.tables import plain


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


def run_detection(args):
    mem, nonmem = ([read_run(p) for p in paths] for paths in (args.mem, args.nonmem))
    if args.kinds is not None:
        kinds = read_kinds(args.kinds)
        mem = [relabel(run, kinds, args.kinds) for run in mem]
    results = evaluate_detection(mem, nonmem, args.num_images, args.horizons, args.bootstrap, args.bootstrap_seed)
    if any(is_published(r["key"]) for r in results):
        add_difference_to_first_step(results, mem, nonmem, args.bootstrap, args.bootstrap_seed)
    differences = evaluate_differences(mem, nonmem, args.horizons, args.bootstrap, args.bootstrap_seed)
    tables = detection_tables(results, differences)
    both = {"scores": results, "differences": differences}
    write_results(args.output, "detection", tables, [INTERVALS, made_from([*mem, *nonmem])], both)
    draw_detection(args.output, mem, nonmem, results)
    if args.calibrate is not None:
        write_threshold(args, mem, nonmem)


def draw_detection(output, mem, nonmem, results):
    kinds, sets = label_rows(mem, nonmem)
    keys = shared_scores([*mem, *nonmem])
    horizons = default_horizons([*mem, *nonmem], keys)
    stepped = [k for k in keys if isinstance(mem[0].rows[0][k][0], list)]
    save_figure(output / "roc.png", roc_figure, kinds, sets, keys, horizons)
    save_figure(output / "scores.png", distribution_figure, kinds, sets, keys, horizons)
    if any(map(is_published, keys)):
        save_figure(output / "cost.png", cost_figure, results, mem[0].settings["num_inference_steps"])
    save_figure(output / "auc_by_steps.png", horizon_figure, kinds, sets, stepped)


def write_threshold(args, mem, nonmem):
    """Calibrate on all negatives given, and say what to do with the file."""
    _, sets = label_rows(mem, nonmem)
    key = SCORES.get(args.score, args.score)
    with input_errors():
        threshold = calibrate([p for pairs in sets.values() for p in pairs], key, args.horizon, args.calibrate)
    path = args.threshold_file or args.output / "threshold.json"
    make_folder(path.parent, "--threshold_file")
    write_text(path, threshold.save_text())
    T = args.horizon or "all"
    print(f"threshold {threshold.threshold:.4f} on {args.score}, T={T}, {threshold.num_images} images a prompt")
    if threshold.num_negatives < 1 / max(args.calibrate, 1e-9):
        print(f"warning: {threshold.num_negatives} negatives cannot resolve a false positive rate of {args.calibrate}")
    print(f"{path}\nuse it by: python detect_mem.py --threshold_file {path} ...")


def run_localisation(args):
    runs = [read_run(p) for p in args.runs]
    results = evaluate_localisation(runs, args.dataset, args.masks, args.bootstrap, args.bootstrap_seed)
    tables = localisation_tables(results)
    notes = [INTERVALS, ORACLE, made_from(runs)]
    write_results(args.output, "localisation", tables, notes, results)
    truths = true_masks(runs[0], args.dataset, args.masks)
    by_step = auroc_by_step(runs, args.dataset, args.masks)
    if by_step is not None:
        save_figure(args.output / "auroc_by_steps.png", steps_figure, by_step, results)
    save_figure(args.output / "overlays.png", overlay_figure, runs[0], truths)


def run_mitigation(args):
    runs = [read_run(p) for p in args.runs]
    check_comparable(runs)
    evaluators = open_evaluators(args, runs)
    results, measured = evaluate_mitigation(runs, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed)
    tables = mitigation_tables(results, measured)
    notes = [INTERVALS, evaluators.describe(), made_from(runs)]
    write_results(args.output, "mitigation", tables, notes, results)
    lines = [{"run": run, **row} for run, rows in measured.items() for row in rows]
    write_text(args.output / "per_prompt.jsonl", "".join(json.dumps(plain(line)) + "\n" for line in lines))
    references = load_references(runs[0], args.dataset)
    save_figure(args.output / "strips.png", strips_figure, strongest_runs(runs), references)
    if evaluators.descriptor is not None and evaluators.clip is not None:
        save_figure(args.output / "tradeoff.png", tradeoff_figure, results)


def run_damage(args):
    runs, evaluators = [read_run(p) for p in args.runs], open_models(args)
    results = evaluate_damage(runs, evaluators, args.bootstrap, args.bootstrap_seed)
    notes = [INTERVALS, evaluators.describe(), made_from(runs)]
    write_results(args.output, "damage", damage_tables(results), notes, results)


def run_audit(args):
    own, audited, control = ([read_run(p) for p in paths] for paths in (args.own, args.audited, args.control))
    evaluators = open_models(args)
    results = evaluate_audit(own, audited, control, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed)
    notes = [INTERVALS, evaluators.describe(), made_from([*own, *audited, *control])]
    write_results(args.output, "audit", audit_tables(results), notes, results)


def run_report(args):
    runs = [read_run(p) for p in args.runs]
    evaluators = open_evaluators(args, runs)
    make_folder(args.output.parent, "--output")
    page = build_report(runs, evaluators, args)
    write_text(args.output, page)
    print(f"{args.output}: {len(page) / 1e6:.1f} MB, needs nothing else")


def made_from(runs):
    """Which runs, of which commits and at which seeds, numbers come from."""
    seeds = sorted({run.settings.get("gen_seed") for run in runs})
    commits = sorted({str(run.versions.get("commit")) for run in runs})
    model = runs[0].settings.get("model_id")
    return f"{len(runs)} runs of {model} at gen_seed {', '.join(map(str, seeds))}, made by commit {', '.join(commits)}"


def write_results(output, name, tables, notes, results):
    """Print the tables and keep them as Markdown and JSON."""
    make_folder(output, "--output")
    text = "\n\n".join([*(table.markdown() for table in tables), "\n".join(f"- {note}" for note in notes if note)])
    print(text)
    write_text(output / f"{name}.md", text + "\n")
    write_text(output / f"{name}.json", json.dumps(plain(results), indent=1) + "\n")
    print(f"\n{output / name}.md, {name}.json")


def save_figure(path, draw, *args):
    with theme():
        figure = draw(*args)
        figure.savefig(path, dpi=110)
        plt.close(figure)
    print(path)


COMMANDS = {
    "detection": run_detection, "localisation": run_localisation, "mitigation": run_mitigation,
    "damage": run_damage, "audit": run_audit, "report": run_report,
}  # fmt: skip


def main(argv=None):
    args = eval_parser(__doc__).parse_args(argv)
    plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
