"""One self-contained HTML page of any runs: what they found, what it looks like, how they were made."""

import base64
import io

import jinja2

import eval_detection as detection
import eval_figures as figures
import eval_localisation as localisation
import eval_mitigation as mitigation
from map_files import maps_path
from mask_files import MaskStore
from run_utils import ROOT, InputError, Table

TEMPLATE = ROOT / "report_template.html"
DPI = 110
MAX_PROMPTS = 40  # rows of the table of prompts; the result files hold all
SCORE_KEY = "text_noise_norm"  # what prompts are sorted by


def build_report(runs, evaluators, args):
    """The page as text.

    Args:
        runs: list of `Run`, of either script.
        evaluators: `Evaluators` for mitigation runs.
        args: of `eval_mem.py report`: title, dataset, bootstrap, bootstrap_seed.
    """
    detecting = [run for run in runs if not run.is_mitigation]
    mitigating = [run for run in runs if run.is_mitigation]
    sections = []
    if detecting:
        sections += detection_sections(detecting, args)
        sections += localisation_sections(detecting, args)
    if mitigating:
        sections += mitigation_sections(mitigating, evaluators, args)
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    facts = {"runs": len(runs), "prompts": count_prompts(runs), "images": count_images(runs)}
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=args.title, facts=facts, model=runs[0].settings.get("model_id"), sections=sections, runs=runs
    )


def count_prompts(runs):
    return len({row["prompt"] for run in runs for row in run.rows})


def count_images(runs):
    return sum(len(row["seeds"]) for run in runs for row in run.rows)


def section(title, text, tables, pictures):
    return {"title": title, "text": text, "tables": tables, "figures": pictures}


def picture(caption, draw, *args):
    """A figure on a light and on a dark ground, as data URIs."""
    images = {}
    for name, dark in (("light", False), ("dark", True)):
        with figures.theme(dark):
            figure = draw(*args)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
            width = round(figure.get_figwidth() * DPI)
            figures.plt.close(figure)
        images[name] = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"caption": caption, "width": width, **images}


def detection_sections(runs, args):
    """Scores of all prompts and, where the rows are labelled both ways, how well they tell the classes apart."""
    run, keys = runs[0], detection.shared_scores(runs)
    horizons = figures.default_horizons(runs, keys)
    key = SCORE_KEY if SCORE_KEY in keys else keys[0]
    caption = f"The prompts of {run.key} with the highest {detection.score_label(key, horizons[key])}; below, the "
    caption += "bright-ending mask over the grey image."
    shown = [figures.gallery_figure, run, stored_masks(run), key, horizons[key]]
    gallery = [picture(caption, *shown)] if run.has_images() else []
    text = "Higher means more likely memorized."
    prompts = section("Prompts by score", text, [prompt_table(runs, keys, horizons, key)], gallery)
    return [*labelled_sections(runs, keys, horizons, args), prompts]


def labelled_sections(runs, keys, horizons, args):
    if not {True, False} <= {row.get("is_memorized") for run in runs for row in run.rows}:
        return []
    results = detection.evaluate_detection(runs, [], (None,), replicates=args.bootstrap, seed=args.bootstrap_seed)
    differences = detection.evaluate_differences(runs, [], replicates=args.bootstrap, seed=args.bootstrap_seed)
    kinds, sets = detection.label_rows(runs, [])
    stepped = [k for k in keys if isinstance(runs[0].rows[0][k][0], list)]
    scores = "Every image's score; the bar is the median."
    pictures = [
        picture(scores, figures.distribution_figure, kinds, sets, keys, horizons),
        picture("ROC curves per image.", figures.roc_figure, kinds, sets, keys, horizons),
        picture("AUC against the number of first steps averaged.", figures.horizon_figure, kinds, sets, stepped),
    ]
    tables = detection.detection_tables(results, differences)
    return [section("Detection", f"{detection.INTERVALS}.", tables, pictures)]


def prompt_table(runs, keys, horizons, key):
    rows = []
    for run in runs:
        for row in run.rows:
            means = {k: float(detection.image_scores(row, k, horizons[k]).mean()) for k in keys}
            rows.append((means[key], [row["prompt"], row.get("kind") or "", *(f"{v:.3f}" for v in means.values())]))
    rows.sort(key=lambda item: -item[0])
    headers = ["prompt", "kind", *(detection.score_label(k, horizons[k]) for k in keys)]
    caption = f"The {min(MAX_PROMPTS, len(rows))} highest of {len(rows)} prompts"
    return Table(caption, headers, [cells for _, cells in rows[:MAX_PROMPTS]])


def stored_masks(run):
    path = run.folder / "attn_data" / f"{run.key}_attention_scores.npz"
    if not path.is_file():
        return {}
    try:
        return MaskStore.read(path).masks
    except ValueError:  # the original's layout, which does not say whose masks they are
        return {}


def localisation_sections(runs, args):
    """Localisation of the runs that have both map files and true masks; nothing without any."""
    usable = []
    for run in runs:
        has_maps = all(maps_path(run.folder, run.key, row["index"]).exists() for row in run.rows)
        if has_maps and has_true_masks(run, args.dataset):
            usable.append(run)
    if not usable:
        return []
    results = localisation.evaluate_localisation(
        usable, args.dataset, replicates=args.bootstrap, seed=args.bootstrap_seed
    )
    truths = localisation.true_masks(usable[0], args.dataset)
    by_step = localisation.auroc_by_step(usable, args.dataset)
    pictures = [picture("Pixel AUROC over the steps.", figures.steps_figure, by_step, results)] if by_step else []
    caption = "Maps over the image; the true mask's border in white."
    overlays = [picture(caption, figures.overlay_figure, usable[0], truths)] if usable[0].has_images() else []
    text = f"Pixel by pixel against the true masks. {localisation.ORACLE}."
    return [section("Localisation", text, localisation.localisation_tables(results), [*overlays, *pictures])]


def has_true_masks(run, dataset):
    try:
        return bool(localisation.true_masks(run, dataset))
    except InputError:
        return False


def mitigation_sections(runs, evaluators, args):
    results, measured = mitigation.evaluate_mitigation(
        runs, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed
    )
    records = mitigation.load_references(runs[0], args.dataset)
    shown = mitigation.strongest_runs(runs)
    pictures = [picture("The same seeds under every method at its strongest.", figures.strips_figure, shown, records)]
    if evaluators.descriptor is not None and evaluators.clip is not None:
        caption = "Privacy against utility; bars are 95 % intervals."
        pictures.insert(0, picture(caption, figures.tradeoff_figure, results))
    text = f"95 % intervals by resampling prompts. {evaluators.describe()}."
    return [section("Mitigation", text, mitigation.mitigation_tables(results, measured), pictures)]
