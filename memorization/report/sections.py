"""."""

import base64
import io

from memorization.errors import InputError
from memorization.evaluation.detection import (
    INTERVALS,
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
from memorization.files.maps import maps_path
from memorization.finished_runs import stored_masks, strongest_runs
from memorization.report.figures import (
    default_horizons,
    distribution_figure,
    gallery_figure,
    horizon_figure,
    overlay_figure,
    plt,
    roc_figure,
    steps_figure,
    strips_figure,
    theme,
    tradeoff_figure,
)
from memorization.scores import image_scores, score_label
from memorization.tables import Table

DPI = 110


MAX_PROMPTS = 40  # rows of the table of prompts; the result files hold all


SCORE_KEY = "text_noise_norm"  # what prompts are sorted by


def section(title, text, tables, pictures):
    return {"title": title, "text": text, "tables": tables, "figures": pictures}


def picture(caption, draw, *args):
    """A figure on a light and on a dark ground, as data URIs."""
    images = {}
    for name, dark in (("light", False), ("dark", True)):
        with theme(dark):
            figure = draw(*args)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=DPI)
            width = round(figure.get_figwidth() * DPI)
            plt.close(figure)
        images[name] = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"caption": caption, "width": width, **images}


def detection_sections(runs, args):
    """Scores of all prompts and, where the rows are labelled both ways, how well they tell the classes apart."""
    run, keys = runs[0], shared_scores(runs)
    horizons = default_horizons(runs, keys)
    key = SCORE_KEY if SCORE_KEY in keys else keys[0]
    caption = f"The prompts of {run.key} with the highest {score_label(key, horizons[key])}; below, the "
    caption += "bright-ending mask over the grey image."
    shown = [gallery_figure, run, stored_masks(run), key, horizons[key]]
    gallery = [picture(caption, *shown)] if run.has_images() else []
    text = "Higher means more likely memorized."
    prompts = section("Prompts by score", text, [prompt_table(runs, keys, horizons, key)], gallery)
    return [*labelled_sections(runs, keys, horizons, args), prompts]


def labelled_sections(runs, keys, horizons, args):
    if not {True, False} <= {row.get("is_memorized") for run in runs for row in run.rows}:
        return []
    results = evaluate_detection(runs, [], (None,), replicates=args.bootstrap, seed=args.bootstrap_seed)
    differences = evaluate_differences(runs, [], replicates=args.bootstrap, seed=args.bootstrap_seed)
    kinds, sets = label_rows(runs, [])
    stepped = [k for k in keys if isinstance(runs[0].rows[0][k][0], list)]
    scores = "Every image's score; the bar is the median."
    pictures = [
        picture(scores, distribution_figure, kinds, sets, keys, horizons),
        picture("ROC curves per image.", roc_figure, kinds, sets, keys, horizons),
        picture("AUC against the number of first steps averaged.", horizon_figure, kinds, sets, stepped),
    ]
    tables = detection_tables(results, differences)
    return [section("Detection", f"{INTERVALS}.", tables, pictures)]


def prompt_table(runs, keys, horizons, key):
    rows = []
    for run in runs:
        for row in run.rows:
            means = {k: float(image_scores(row, k, horizons[k]).mean()) for k in keys}
            rows.append((means[key], [row["prompt"], row.get("kind") or "", *(f"{v:.3f}" for v in means.values())]))
    rows.sort(key=lambda item: -item[0])
    headers = ["prompt", "kind", *(score_label(k, horizons[k]) for k in keys)]
    caption = f"The {min(MAX_PROMPTS, len(rows))} highest of {len(rows)} prompts"
    return Table(caption, headers, [cells for _, cells in rows[:MAX_PROMPTS]])


def localisation_sections(runs, args):
    """Localisation of the runs that have both map files and true masks; nothing without any."""
    usable = []
    for run in runs:
        has_maps = all(maps_path(run.folder, run.key, row["index"]).exists() for row in run.rows)
        if has_maps and has_true_masks(run, args.dataset):
            usable.append(run)
    if not usable:
        return []
    results = evaluate_localisation(usable, args.dataset, replicates=args.bootstrap, seed=args.bootstrap_seed)
    truths = true_masks(usable[0], args.dataset)
    by_step = auroc_by_step(usable, args.dataset)
    pictures = [picture("Pixel AUROC over the steps.", steps_figure, by_step, results)] if by_step else []
    caption = "Maps over the image; the true mask's border in white."
    overlays = [picture(caption, overlay_figure, usable[0], truths)] if usable[0].has_images() else []
    text = f"Pixel by pixel against the true masks. {ORACLE}."
    return [section("Localisation", text, localisation_tables(results), [*overlays, *pictures])]


def has_true_masks(run, dataset):
    try:
        return bool(true_masks(run, dataset))
    except InputError:
        return False


def mitigation_sections(runs, evaluators, args):
    results, measured = evaluate_mitigation(runs, evaluators, args.dataset, args.bootstrap, args.bootstrap_seed)
    records = load_references(runs[0], args.dataset)
    shown = strongest_runs(runs)
    pictures = [picture("The same seeds under every method at its strongest.", strips_figure, shown, records)]
    if evaluators.descriptor is not None and evaluators.clip is not None:
        caption = "Privacy against utility; bars are 95 % intervals."
        pictures.insert(0, picture(caption, tradeoff_figure, results))
    text = f"95 % intervals by resampling prompts. {evaluators.describe()}."
    return [section("Mitigation", text, mitigation_tables(results, measured), pictures)]
