"""One section per topic, built from finished runs: what eval_mem.py writes to a folder and what stands on the page."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from memorization.errors import InputError
from memorization.evaluation.audit import audit_tables, evaluate_audit, hiding_strengths
from memorization.evaluation.classes import Classes, classes_of
from memorization.evaluation.controls import EXCHANGEABLE, settings_of
from memorization.evaluation.damage import damage_tables, evaluate_damage
from memorization.evaluation.decisions import Decisions
from memorization.evaluation.detection import (
    evaluate_detection,
    evaluate_differences,
    shared_scores,
    with_differences_to_first_step,
)
from memorization.evaluation.detection_tables import detection_tables
from memorization.evaluation.localisation import (
    ORACLE,
    auroc_by_step,
    evaluate_localisation,
    localisation_tables,
    true_masks,
)
from memorization.evaluation.mitigation import evaluate_mitigation, load_references, mitigation_tables
from memorization.evaluation.score_columns import Row, score_columns
from memorization.evaluation.statistics import INTERVALS, USUAL, BootstrapSettings, Result
from memorization.finished_runs import Run, stored_masks, strongest_runs
from memorization.mitigations.base import PLAIN
from memorization.report.detection_figures import (
    cost_figure,
    default_horizons,
    distribution_figure,
    horizon_figure,
    roc_figure,
)
from memorization.report.map_figures import gallery_figure, overlay_figure, steps_figure
from memorization.report.mitigation_figures import strips_figure, tradeoff_figure, verdicts_of
from memorization.report.section import Figure, Section
from memorization.scores import HORIZONS, MAGNITUDE, image_scores, is_chosen, score_label
from memorization.similarity.measure import Evaluators
from memorization.tables import Table, plain

MAX_PROMPTS = 40  # rows of the table of prompts; the result files hold all


def detection_section(
    mem: Sequence[Run],
    nonmem: Sequence[Run] = (),
    num_images: Sequence[int | None] = (None,),
    horizons: Sequence[int | None] = HORIZONS,
) -> Section:
    """How well every score tells memorized prompts from others.

    Args:
        mem: runs of memorized prompts, or of both kinds where the rows are labelled.
        nonmem: runs of other prompts.
        num_images, horizons: as of `evaluate_detection`.

    Raises:
        InputError: for runs that cannot be compared, a missing class, or more images asked for than there are.
    """
    runs, classes = [*mem, *nonmem], classes_of(mem, nonmem)
    results = evaluate_detection(mem, nonmem, num_images, horizons)
    if any(is_chosen(r["key"]) for r in results):
        results = with_differences_to_first_step(results, classes)
    differences = evaluate_differences(mem, nonmem, horizons)
    return Section(
        topic="detection",
        title="Detection",
        text=f"{INTERVALS}.",
        tables=detection_tables(results, differences),
        figures=figures_of_detection(runs, classes, results),
        results={"scores": results, "differences": differences},
        notes=[INTERVALS, made_from(runs)],
    )


def decisions_section(runs: Sequence[Run], decisions: Decisions) -> Section:
    """Which prompts of some runs are memorized, all of them decided together.

    Raises:
        InputError: if the runs do not have the controls' score, or were not made as the controls were.
    """
    for run in runs:
        decisions.refuse_other_run(settings_of(run), decisions.controls.source)
    # The rows of one run as they are, which may be columns.
    rows = runs[0].rows if len(runs) == 1 else [row for run in runs for row in run.rows]
    decided = decisions.of_rows(rows)
    known = [rows[place].get("is_memorized") for place in np.flatnonzero(decided.memorized).tolist()]
    told = f"Of {len(known)} found, {known.count(False)} are labelled not memorized" if are_labelled(runs) else ""
    return Section(
        topic="decisions",
        title="Decisions",
        text=f"{EXCHANGEABLE}.",
        tables=[decisions.table(decided)],
        results=decided,
        notes=[told, made_from(runs)],
    )


def figures_of_detection(runs: Sequence[Run], classes: Classes, results: Sequence[Result]) -> list[Figure]:
    """Scores, ROC curves, AUC against T and, where there are scores that cost something, AUC beside cost."""
    keys = shared_scores(runs)
    first, horizons = runs[0].rows[0], default_horizons(runs, keys)
    scores = partial(distribution_figure, classes, keys, horizons)
    stepped = [k for k in keys if isinstance(first[k][0], list) and len(first[k][0]) > 1]
    figures = [
        Figure("scores", scores, "Every image's score; the bar is the median."),
        Figure("roc", partial(roc_figure, classes, keys, horizons), "ROC curves per image."),
    ]
    if stepped:
        by_steps = partial(horizon_figure, classes, stepped)
        figures.append(Figure("auc_by_steps", by_steps, "AUC against the number of first steps averaged."))
    if any(map(is_chosen, keys)):
        figures.append(Figure("cost", partial(cost_figure, results, runs[0].settings["num_inference_steps"])))
    return figures


def are_labelled(runs: Sequence[Run]) -> bool:
    """Whether the rows say of some prompts that they are memorized and of some that they are not."""
    return {True, False} <= {row.get("is_memorized") for run in runs for row in run.rows}


def prompts_section(runs: Sequence[Run]) -> Section:
    """All prompts by score, whether they are labelled or not."""
    run, keys = runs[0], shared_scores(runs)
    horizons = default_horizons(runs, keys)
    key = MAGNITUDE if MAGNITUDE in keys else keys[0]
    caption = f"The prompts of {run.key} with the highest {score_label(key, horizons[key])}; below, the "
    caption += "bright-ending mask over the grey image."
    draw = partial(gallery_figure, run, stored_masks(run), key, horizons[key])
    return Section(
        topic="prompts",
        title="Prompts by score",
        text="Higher means more likely memorized.",
        tables=[prompt_table(runs, horizons, key)],
        figures=[Figure("gallery", draw, caption)] if run.has_images() else [],
        notes=[made_from(runs)],
    )


def prompt_table(runs: Sequence[Run], horizons: Mapping[str, int | None], sort_key: str) -> Table:
    """The prompts with the highest score of a key, each with the means of all scores."""
    highest: list[tuple[float, Row]] = []
    for run in runs:
        means = score_columns(run.rows, sort_key, horizons[sort_key]).means
        order = np.argsort(-means, kind="stable")[:MAX_PROMPTS]
        highest += [(means[place], run.rows[place]) for place in order.tolist()]
    highest.sort(key=lambda item: -item[0])
    rows = [
        [
            row["prompt"],
            row.get("kind") or "",
            *(f"{image_scores(row, key, t).mean():.3f}" for key, t in horizons.items()),
        ]
        for _, row in highest[:MAX_PROMPTS]
    ]
    headers = ["prompt", "kind", *(score_label(key, t) for key, t in horizons.items())]
    return Table(f"The {len(rows)} highest of {sum(len(run.rows) for run in runs)} prompts", headers, rows)


def localisation_section(
    runs: Sequence[Run],
    dataset: str | None = None,
    masks: str | Path | None = None,
    bootstrap: BootstrapSettings = USUAL,
) -> Section:
    """Maps against true masks, pixel by pixel.

    Args:
        runs: of detect_mem.py --store_maps.
        dataset: with true masks; the run's own by default.
        masks: folder of true masks INDEX.png, instead of a data set's.

    Raises:
        InputError: if maps or true masks are missing or damaged.
    """
    results = evaluate_localisation(runs, dataset, masks, bootstrap)
    truths, by_step = true_masks(runs[0], dataset, masks), auroc_by_step(runs, dataset, masks)
    figures = []
    if runs[0].has_images():
        caption = "Maps over the image; the true mask's border in white."
        figures.append(Figure("overlays", partial(overlay_figure, runs[0], truths), caption))
    if by_step is not None:
        draw = partial(steps_figure, by_step, results)
        figures.append(Figure("auroc_by_steps", draw, "Pixel AUROC over the steps."))
    return Section(
        topic="localisation",
        title="Localisation",
        text=f"Pixel by pixel against the true masks. {ORACLE}.",
        tables=localisation_tables(results),
        figures=figures,
        results=results,
        notes=[INTERVALS, ORACLE, made_from(runs)],
    )


def can_localise(run: Run, dataset: str | None = None) -> bool:
    """Whether a run has both map files and true masks."""
    if not all(run.files.map(row["index"]).exists() for row in run.rows):
        return False
    try:
        return bool(true_masks(run, dataset))
    except InputError:
        return False


def mitigation_section(
    runs: Sequence[Run], evaluators: Evaluators, dataset: str | None = None, bootstrap: BootstrapSettings = USUAL
) -> Section:
    """Privacy against utility of mitigation runs of the same prompts and seeds.

    Args:
        dataset: with training images; the run's own by default.

    Raises:
        InputError: if runs cannot be compared, or images are missing.
    """
    results, measured, quality = evaluate_mitigation(runs, evaluators, dataset, bootstrap)
    lines = [{"run": run, **row} for run, rows in measured.items() for row in rows]
    shown, where = shown_runs(runs, results)
    draw = partial(strips_figure, shown, load_references(runs[0], dataset), verdicts_of(results))
    figures = [Figure("strips", draw, f"The same seeds under every method {where}.")]
    if evaluators.descriptor is not None and evaluators.clip is not None:
        caption = "Privacy against utility and against quality; bars are 95 % intervals, crosses ruined images."
        figures.insert(0, Figure("tradeoff", partial(tradeoff_figure, results), caption))
    return Section(
        topic="mitigation",
        title="Mitigation",
        text=f"{INTERVALS}. {evaluators.describe()}.",
        tables=mitigation_tables(results, measured, quality),
        figures=figures,
        results=results,
        notes=[INTERVALS, evaluators.describe(), made_from(runs)],
        files={"per_prompt.jsonl": "".join(json.dumps(plain(line)) + "\n" for line in lines)},
    )


def shown_runs(runs: Sequence[Run], results: Sequence[Result]) -> tuple[Sequence[Run], str]:
    """Plain generation and one run of each method, and which: the weakest that hides, where copies were counted."""
    if any("copied" not in r for r in results):
        return strongest_runs(runs), "at its strongest"
    keys = {r["run"] for r in hiding_strengths(results).values()} | {r["run"] for r in results if r["method"] == PLAIN}
    return [run for run in runs if run.key in keys], "at the weakest strength that hides, or its strongest"


def damage_section(runs: Sequence[Run], evaluators: Evaluators, bootstrap: BootstrapSettings = USUAL) -> Section:
    """What mitigations do to ordinary prompts, beside plain generation.

    Raises:
        InputError: if runs cannot be compared, none of them is plain, or images are missing.
    """
    results = evaluate_damage(runs, evaluators, bootstrap)
    return Section(
        topic="damage",
        title="Damage to ordinary prompts",
        text=f"{INTERVALS}. {evaluators.describe()}.",
        tables=damage_tables(results),
        results=results,
        notes=[INTERVALS, evaluators.describe(), made_from(runs)],
    )


def audit_section(
    own: Sequence[Run],
    audited: Sequence[Run],
    control: Sequence[Run],
    evaluators: Evaluators,
    dataset: str | None = None,
) -> Section:
    """Which hidden memories come back from a searched prompt embedding; see `evaluate_audit`."""
    results = evaluate_audit(own, audited, control, evaluators, dataset)
    return Section(
        topic="audit",
        title="Audit after mitigation",
        text=f"{INTERVALS}. {evaluators.describe()}.",
        tables=audit_tables(results),
        results=results,
        notes=[INTERVALS, evaluators.describe(), made_from([*own, *audited, *control])],
    )


def made_from(runs: Sequence[Run]) -> str:
    """Which runs, of which commits and at which seeds, numbers come from."""
    seeds = ", ".join(map(str, sorted({run.settings.get("gen_seed", 0) for run in runs})))
    commits = ", ".join(sorted({str(run.versions.get("commit")) for run in runs}))
    return f"{len(runs)} runs of {runs[0].settings.get('model_id')} at gen_seed {seeds}, made by commit {commits}"
