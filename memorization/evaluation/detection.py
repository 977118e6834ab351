"""Detection evaluated from result files: scores against labels, per image and per prompt, with intervals."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tqdm import tqdm

from memorization.errors import InputError
from memorization.evaluation.classes import Classes, ClassPair, Items, View, classes_of, gather
from memorization.evaluation.curves import rank_auc
from memorization.evaluation.detection_metrics import DETECTION_METRICS, auc_difference_measure
from memorization.evaluation.score_columns import Row
from memorization.evaluation.statistics import Measure, Result
from memorization.finished_runs import Run, check_same_model
from memorization.rows import score_names
from memorization.scores import (
    HORIZONS,
    MAGNITUDE,
    detector_of,
    horizon_text,
    horizons_of,
    image_scores,
    known_first,
    label,
)
from memorization.tables import format_table

COMPARISONS = (
    ("text_noise_norm_masked", MAGNITUDE),
    ("text_noise_norm_masked", "text_noise_norm_shuffled"),
    ("text_noise_norm_rms", MAGNITUDE),
)


def evaluate_items(items: Items) -> Result:
    """Metrics with intervals over prompts, and AUC of every seed's run alone."""
    looked_at = (items.scores, items.labels, items.prompts)
    result: Result = {name: metric.measure(*looked_at) for name, metric in DETECTION_METRICS.items()}
    result["auc_by_seed"] = [
        rank_auc(items.scores[of & items.labels], items.scores[of & ~items.labels]) for of in items.of_runs()
    ]
    return result | {"memorized": items.count_prompts(True), "negatives": items.count_prompts(False)}


def shared_scores(runs: Sequence[Run]) -> list[str]:
    """Score keys that every run has, the known ones first.

    Raises:
        InputError: if there is none.
    """
    names = [score_names(run.rows[0]) for run in runs]
    shared = [key for key in names[0] if all(key in other for other in names)]
    if not shared:
        raise InputError(f"{runs[0].path} and the others share no score; they are of different versions")
    return known_first(shared)


def evaluate_detection(
    mem_runs: Sequence[Run],
    nonmem_runs: Sequence[Run],
    num_images: Sequence[int | None] = (None,),
    horizons: Sequence[int | None] = HORIZONS,
) -> list[Result]:
    """Every score against every class of labels, one result per pair of classes and way to look at a score.

    Args:
        mem_runs, nonmem_runs: several seeds of one prompt set are pooled.
        num_images: how many images per prompt to look at; None for all of a run.
        horizons: the T to look at; None for all steps.

    Raises:
        InputError: for runs that cannot be compared, or more images asked for than there are.
    """
    runs = [*mem_runs, *nonmem_runs]
    check_same_model(runs)
    available = min(len(run.rows[0]["seeds"]) for run in runs)
    if any(n is not None and n > available for n in num_images):
        raise InputError(f"--num_images {max(n for n in num_images if n)} is more than the runs have: {available}")
    views = views_of(runs, num_images, horizons, available)
    jobs = [(pair, view) for pair in classes_of(mem_runs, nonmem_runs).pairs() for view in views]
    results = []
    for pair, view in tqdm(jobs, desc="detection", unit="score"):
        head = {"memorized_kind": pair.kind, "negative_set": pair.negative_set}
        head |= {"score": label(view.key), "key": view.key, "T": view.horizon}
        head |= {"level": view.level, "images": view.num_images or available}
        results.append(head | evaluate_items(gather(pair, view)))
    return results


def views_of(
    runs: Sequence[Run], num_images: Sequence[int | None], horizons: Sequence[int | None], available: int
) -> list[View]:
    """Every score that the runs share at every T, per image and, where there are several, per prompt."""
    row, keys = runs[0].rows[0], shared_scores(runs)
    scores = [(key, t) for key in keys for t in horizons_of(row, key, horizons)]
    counts = [
        (n, level) for n in num_images for level in ("image", "prompt") if level == "image" or (n or available) > 1
    ]
    return [View(key, t, level, n) for key, t in scores for n, level in counts]


def evaluate_differences(
    mem_runs: Sequence[Run],
    nonmem_runs: Sequence[Run],
    horizons: Sequence[int | None] = HORIZONS,
) -> list[Result]:
    """AUC per image of one score less that of another, with intervals that know how both go together.

    Two intervals that overlap say little about scores of the same images; this is the comparison that counts:
    LD with D, LD with its mask shuffled, and LD over the root mean square with D.

    Returns:
        One result per pair of classes, pair of scores and T; none without those scores.
    """
    keys, row = shared_scores([*mem_runs, *nonmem_runs]), mem_runs[0].rows[0]
    comparisons = [(a, b) for a, b in COMPARISONS if a in keys and b in keys]
    views = [(View(a, t), View(b, t)) for a, b in comparisons for t in horizons_of(row, a, horizons)]
    jobs = [(pair, a, b) for pair in classes_of(mem_runs, nonmem_runs).pairs() for a, b in views]
    results = []
    for pair, a, b in tqdm(jobs, desc="differences", unit="pair"):
        head = {"memorized_kind": pair.kind, "negative_set": pair.negative_set, "T": a.horizon}
        head |= {"score": label(a.key), "less": label(b.key)}
        results.append(head | {"auc": auc_difference(pair, a, b)})
    return results


def auc_difference(pair: ClassPair, a: View, b: View) -> Measure:
    """AUC of `a` less that of `b` on the same items."""
    one, other = gather(pair, a), gather(pair, b)
    return auc_difference_measure(one.scores, other.scores, one.labels, one.prompts)


def with_differences_to_first_step(results: Sequence[Result], classes: Classes) -> list[Result]:
    """The results, those per image of all images with `auc_difference` to D at T = 1, the cheapest score there is."""
    pairs = {(pair.kind, pair.negative_set): pair for pair in classes.pairs()}
    most, found = max(r["images"] for r in results), []
    for r in tqdm(results, desc="less D at T = 1", unit="score"):
        if r["level"] == "image" and r["images"] == most:
            pair = pairs[r["memorized_kind"], r["negative_set"]]
            r = r | {"auc_difference": auc_difference(pair, View(r["key"], r["T"]), View(MAGNITUDE, 1))}
        found.append(r)
    return found


def summary(rows: Iterable[Row]) -> str:
    """Markdown table: mean of each score per class and, with labels, AUC per image and per prompt.

    Args:
        rows: read once; kept are a few numbers per image.
    """
    labels: list[bool | None] = []
    scores: dict[tuple[str, int | None], list[np.ndarray]] = {}
    costs: Mapping[str, Sequence[int]] = {}
    for row in rows:
        labels.append(row["is_memorized"])
        costs = row.get("score_costs", {})
        for key in known_first(score_names(row)):
            for horizon in horizons_of(row, key, HORIZONS):
                scores.setdefault((key, horizon), []).append(image_scores(row, key, horizon))
    is_labelled = {True, False} == set(labels)
    headers = ["memorized", "not memorized", "AUC per image", "AUC per prompt"] if is_labelled else ["mean"]
    table = []
    for (key, horizon), values in scores.items():
        numbers = class_columns(values, labels) if is_labelled else [float(np.mean([x.mean() for x in values]))]
        table.append([label(key), horizon_text(key, horizon), *numbers, *(cost_of(key, costs) if costs else ())])
    headers = ["score", "T", *headers, *(("extra evaluations", "gradients") if costs else ())]
    counts = f"{len(labels)} prompts"
    if is_labelled:
        counts = f"{labels.count(True)} memorized and {labels.count(False)} other prompts"
    return f"{format_table(headers, table)}\n{counts}; higher = memorized"


def class_columns(values: Sequence[np.ndarray], labels: Sequence[bool | None]) -> list[float]:
    """Means of both classes and AUC per image and per prompt, of one array (images,) per prompt."""
    mem, others = ([v for v, known in zip(values, labels, strict=True) if known is side] for side in (True, False))
    per_prompt = rank_auc([v.mean() for v in mem], [v.mean() for v in others])
    a, b = np.concatenate(mem), np.concatenate(others)
    return [float(a.mean()), float(b.mean()), rank_auc(a, b), per_prompt]


def cost_of(key: str, costs: Mapping[str, Sequence[int]]) -> Sequence[int]:
    """Evaluations and gradients per image of the detector that a row key belongs to; 0 where it only looks."""
    known = detector_of(key)
    return (0, 0) if known is None else costs.get(known.name, (0, 0))
