"""Evaluate finished runs from their result files; no diffusion model is loaded, a laptop does.

    python eval_mem.py detection --mem det_outputs/A_ours.jsonl --nonmem det_outputs/B_ours.jsonl
    python eval_mem.py localisation det_outputs/A_ours.jsonl
    python eval_mem.py mitigation det_outputs/*_mitigation.jsonl --sscd sscd_disc_large.torchscript.pt
    python eval_mem.py damage ordinary/det_outputs/*_mitigation.jsonl --reference_model ViT-g-14
    python eval_mem.py audit --own det_outputs/A_mitigation.jsonl --audited det_outputs/B_mitigation.jsonl --sscd FILE
    python eval_mem.py report det_outputs/*.jsonl

Each prints its tables and writes them to --output with the same numbers as JSON and the figures as PNG.
"""

import json
from dataclasses import replace

import eval_audit as audit
import eval_damage as damage
import eval_detection as detection
import eval_figures as figures
import eval_localisation as localisation
import eval_mitigation as mitigation
from detectors import is_published
from eval_cli import eval_parser
from eval_report import build_report
from kind_labels import read_kinds, relabel
from result_files import read_run
from run_utils import InputError, exit_on_input_error, input_errors, make_folder, plain, write_text
from similarity import ClipSimilarity, CopyDescriptor, PerceptualDistance
from thresholds import calibrate


def run_detection(args):
    mem, nonmem = ([read_run(p) for p in paths] for paths in (args.mem, args.nonmem))
    if args.kinds is not None:
        kinds = read_kinds(args.kinds)
        mem = [relabel(run, kinds, args.kinds) for run in mem]
    results = detection.evaluate_detection(
        mem, nonmem, args.num_images, args.horizons, args.bootstrap, args.bootstrap_seed
    )
    if any(is_published(r["key"]) for r in results):
        detection.add_difference_to_first_step(results, mem, nonmem, args.bootstrap, args.bootstrap_seed)
    differences = detection.evaluate_differences(mem, nonmem, args.horizons, args.bootstrap, args.bootstrap_seed)
    tables = detection.detection_tables(results, differences)
    both = {"scores": results, "differences": differences}
    write_results(args.output, "detection", tables, [detection.INTERVALS, made_from([*mem, *nonmem])], both)
    draw_detection(args.output, mem, nonmem, results)
    if args.calibrate is not None:
        write_threshold(args, mem, nonmem)


def draw_detection(output, mem, nonmem, results):
    kinds, sets = detection.label_rows(mem, nonmem)
    keys = detection.shared_scores([*mem, *nonmem])
    horizons = figures.default_horizons([*mem, *nonmem], keys)
    stepped = [k for k in keys if isinstance(mem[0].rows[0][k][0], list)]
    save_figure(output / "roc.png", figures.roc_figure, kinds, sets, keys, horizons)
    save_figure(output / "scores.png", figures.distribution_figure, kinds, sets, keys, horizons)
    if any(map(is_published, keys)):
        save_figure(output / "cost.png", figures.cost_figure, results, mem[0].settings["num_inference_steps"])
    save_figure(output / "auc_by_steps.png", figures.horizon_figure, kinds, sets, stepped)


def write_threshold(args, mem, nonmem):
    """Calibrate on all negatives given, and say what to do with the file."""
    _, sets = detection.label_rows(mem, nonmem)
    key = detection.SCORES.get(args.score, args.score)
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
    results = localisation.evaluate_localisation(runs, args.dataset, args.masks, args.bootstrap, args.bootstrap_seed)
    tables = localisation.localisation_tables(results)
    notes = [detection.INTERVALS, localisation.ORACLE, made_from(runs)]
    write_results(args.output, "localisation", tables, notes, results)
    truths = localisation.true_masks(runs[0], args.dataset, args.masks)
    by_step = localisation.auroc_by_step(runs, args.dataset, args.masks)
    if by_step is not None:
        save_figure(args.output / "auroc_by_steps.png", figures.steps_figure, by_step, results)
    save_figure(args.output / "overlays.png", figures.overlay_figure, runs[0], truths)


def open_evaluators(args, runs):
    """Evaluators that the arguments name, and the masks that LS weighs with where there are any.

    Raises:
        InputError: if one of them cannot be had.
    """
    perceptual = None
    with input_errors():
        if args.lpips:
            perceptual = PerceptualDistance(args.device)
    return replace(open_models(args), perceptual=perceptual, masks=masks_for(runs, args.masks))


def open_models(args):
    """Copy descriptor and CLIP, where they are given.

    Raises:
        InputError: if one of them cannot be had.
    """
    descriptor = clip = None
    with input_errors():
        if args.sscd is not None:
            descriptor = CopyDescriptor(args.sscd, args.sscd_preprocessing, args.device)
        if args.reference_model is not None:
            clip = ClipSimilarity(args.reference_model, args.reference_model_pretrain, args.device)
    return mitigation.Evaluators(descriptor, clip)


def masks_for(runs, given):
    """Masks out of the given file, which must fit, or out of the run's own where that has them."""
    run = next((run for run in runs if run.is_mitigation), runs[0])
    path = given or run.folder / "attn_data" / "mit_attn_scores.npz"
    if given is None and not path.exists():
        return {}
    try:
        return mitigation.load_masks(path, run)
    except InputError:
        if given is not None:
            raise
        return {}


def run_mitigation(args):
    runs = [read_run(p) for p in args.runs]
    mitigation.check_comparable(runs)
    evaluators = open_evaluators(args, runs)
    results, measured = mitigation.evaluate_mitigation(
        runs, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed
    )
    tables = mitigation.mitigation_tables(results, measured)
    notes = [detection.INTERVALS, evaluators.describe(), made_from(runs)]
    write_results(args.output, "mitigation", tables, notes, results)
    lines = [{"run": run, **row} for run, rows in measured.items() for row in rows]
    write_text(args.output / "per_prompt.jsonl", "".join(json.dumps(plain(line)) + "\n" for line in lines))
    references = mitigation.load_references(runs[0], args.dataset)
    save_figure(args.output / "strips.png", figures.strips_figure, mitigation.strongest_runs(runs), references)
    if evaluators.descriptor is not None and evaluators.clip is not None:
        save_figure(args.output / "tradeoff.png", figures.tradeoff_figure, results)


def run_damage(args):
    runs, evaluators = [read_run(p) for p in args.runs], open_models(args)
    results = damage.evaluate_damage(runs, evaluators, args.bootstrap, args.bootstrap_seed)
    notes = [detection.INTERVALS, evaluators.describe(), made_from(runs)]
    write_results(args.output, "damage", damage.damage_tables(results), notes, results)


def run_audit(args):
    own, audited, control = ([read_run(p) for p in paths] for paths in (args.own, args.audited, args.control))
    evaluators = open_models(args)
    results = audit.evaluate_audit(own, audited, control, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed)
    notes = [detection.INTERVALS, evaluators.describe(), made_from([*own, *audited, *control])]
    write_results(args.output, "audit", audit.audit_tables(results), notes, results)


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
    with figures.theme():
        figure = draw(*args)
        figure.savefig(path, dpi=110)
        figures.plt.close(figure)
    print(path)


COMMANDS = {
    "detection": run_detection, "localisation": run_localisation, "mitigation": run_mitigation,
    "damage": run_damage, "audit": run_audit, "report": run_report,
}  # fmt: skip


def main(argv=None):
    args = eval_parser(__doc__).parse_args(argv)
    figures.plt.switch_backend("agg")  # files only, whether there is a display or not
    with exit_on_input_error():
        COMMANDS[args.command](args)


if __name__ == "__main__":
    main()
