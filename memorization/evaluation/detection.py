"""Detection evaluated from result files: scores against labels, per image and per prompt, with intervals."""

from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from memorization.errors import InputError
from memorization.evaluation.statistics import (
    SMALL_NEGATIVES,
    bootstrap_weights,
    detection_metrics,
    interval_text,
    rank_auc,
    with_interval,
)
from memorization.finished_runs import check_same_model
from memorization.rows import score_names
from memorization.scores import HORIZONS, NAMES, SCORES, horizon_text, horizons_of, image_scores, signal_of
from memorization.tables import Table, format_table

FEW = f"* Fewer than {SMALL_NEGATIVES} negative prompts: TPR at 1 % FPR hangs on the highest of them."


INTERVALS = "95 % intervals by resampling prompts"


COMPARISONS = (("LD", "D"), ("LD", "LD shuffled mask"), ("LD rms", "D"))


HEADERS = {
    "auc": "AUC", "tpr_at_1_fpr": "TPR@1%FPR", "tpr_at_3_fpr": "TPR@3%FPR", "best_f1": "best F1",
    "best_accuracy": "best accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class Items:
    """What is ranked: images, or prompts by the mean of their images. Arrays have one entry an item."""

    scores: np.ndarray
    labels: np.ndarray  # True for memorized
    prompts: np.ndarray  # what is resampled; the same prompt at another seed is the same prompt
    runs: np.ndarray  # gen_seed of the run it came from


def gather(mem, nonmem, key, horizon, level, num_images=None):
    """Items of one score.

    Args:
        mem, nonmem: lists of (run, row).
        level: "image", or "prompt" for the mean over a row's images.
        num_images: use the first so many images of each row; all when None.
    """
    scores, labels, prompts, runs = [], [], [], []
    for memorized, pairs in ((True, mem), (False, nonmem)):
        for run, row in pairs:
            values = image_scores(row, key, horizon, num_images)
            values = [values.mean()] if level == "prompt" else values
            scores += list(values)
            labels += [memorized] * len(values)
            prompts += [f"{memorized} {row['prompt']}"] * len(values)
            runs += [run.settings.get("gen_seed")] * len(values)
    return Items(np.array(scores), np.array(labels), np.array(prompts), np.array(runs))


def evaluate_items(items, num_replicates, seed):
    """Metrics with intervals by resampling prompts, and the range of AUC over runs of different seeds."""
    point = detection_metrics(items.scores, items.labels)
    weights = bootstrap_weights(items.prompts, num_replicates, seed, items.labels)
    replicates = detection_metrics(items.scores, items.labels, weights)
    row = {name: with_interval(point[name][0], replicates[name]) for name in point}
    by_run = [detection_metrics(items.scores[of], items.labels[of])["auc"][0] for of in runs_with_both(items)]
    row["auc_by_seed"] = [float(v) for v in by_run]
    return row | {"memorized": count_prompts(items, True), "negatives": count_prompts(items, False)}


def runs_with_both(items):
    """For every seed with memorized and other items, which items are its."""
    masks = [items.runs == seed for seed in sorted(set(items.runs.tolist()))]
    return [m for m in masks if items.labels[m].any() and not items.labels[m].all()]


def count_prompts(items, memorized):
    return len(set(items.prompts[items.labels == memorized].tolist()))


def label_rows(mem_runs, nonmem_runs):
    """Rows by class: (memorized kind or "all" -> pairs, negative set -> pairs of (run, row)).

    A row's own `is_memorized` must agree with the side it was given on; given on one side alone, it
    decides. Kinds are the words of the prompt set: verbatim and template in the bundled one.

    Raises:
        InputError: if either class is empty, or a label contradicts its side.
    """
    mem = [(run, row) for run in mem_runs for row in run.rows]
    if not nonmem_runs:
        nonmem = [p for p in mem if p[1].get("is_memorized") is False]
        mem = [p for p in mem if p[1].get("is_memorized") is True]
        if not mem or not nonmem:
            raise InputError("the rows' is_memorized does not give both classes: name the others by --nonmem")
    else:
        nonmem = [(run, row) for run in nonmem_runs for row in run.rows]
        refuse_contradictions(mem, False, "--mem")
        refuse_contradictions(nonmem, True, "--nonmem")
    kinds, sets = {}, {}
    for run, row in mem:
        kinds.setdefault(row.get("kind") or "memorized", []).append((run, row))
    for run, row in nonmem:
        sets.setdefault(run.dataset, []).append((run, row))
    return ({**kinds, "all memorized": mem} if len(kinds) > 1 else kinds), sets


def refuse_contradictions(pairs, label, option):
    for run, row in pairs:
        if row.get("is_memorized") is label:
            raise InputError(f"{run.path} is given by {option}, but its prompt {row['index']} is labelled otherwise")


def shared_scores(runs):
    """Score keys that every run has, the known ones first.

    Raises:
        InputError: if there is none.
    """
    names = [score_names(run.rows[0]) for run in runs]
    shared = [k for k in names[0] if all(k in other for other in names)]
    if not shared:
        raise InputError(f"{runs[0].path} and the others share no score; they are of different versions")
    return sorted(shared, key=lambda k: list(NAMES).index(k) if k in NAMES else len(NAMES))


def evaluate_detection(mem_runs, nonmem_runs, num_images=(None,), horizons=HORIZONS, replicates=1000, seed=0):
    """Every score against every class of labels: a list of result dicts.

    Args:
        mem_runs, nonmem_runs: lists of `Run`; several seeds of one prompt set are pooled.
        num_images: images a prompt to look at; None for all of a run.

    Raises:
        InputError: for runs that cannot be compared, or more images asked for than there are.
    """
    runs = [*mem_runs, *nonmem_runs]
    check_same_model(runs)
    available = min(len(run.rows[0]["seeds"]) for run in runs)
    if any(n is not None and n > available for n in num_images):
        raise InputError(f"--num_images {max(n for n in num_images if n)} is more than the runs have: {available}")
    keys, (kinds, sets) = shared_scores(runs), label_rows(mem_runs, nonmem_runs)
    jobs = [
        (kind, negatives, key, t, level, n)
        for kind in kinds for negatives in sets for key in keys
        for t in horizons_of(runs[0].rows[0], key, horizons)
        for n in num_images for level in (("image", "prompt") if (n or available) > 1 else ("image",))
    ]  # fmt: skip
    results = []
    for kind, negatives, key, t, level, n in tqdm(jobs, desc="detection", unit="score"):
        items = gather(kinds[kind], sets[negatives], key, t, level, n)
        head = {"memorized_kind": kind, "negative_set": negatives, "score": NAMES.get(key, key), "key": key}
        head |= {"T": t, "level": level, "images": n or available}
        results.append(head | evaluate_items(items, replicates, seed))
    return results


def evaluate_differences(mem_runs, nonmem_runs, horizons=HORIZONS, replicates=1000, seed=0):
    """AUC per image of one score less that of another, with intervals from the same resamples for both.

    Two intervals that overlap say little about scores of the same images; this is the comparison that counts:
    LD with D, LD with its mask shuffled, and LD over the root mean square with D.

    Returns:
        List of result dicts; empty without those scores.
    """
    keys, (kinds, sets) = shared_scores([*mem_runs, *nonmem_runs]), label_rows(mem_runs, nonmem_runs)
    pairs = [(a, b) for a, b in COMPARISONS if SCORES[a] in keys and SCORES[b] in keys]
    row = mem_runs[0].rows[0]
    jobs = [
        (kind, negatives, t, a, b)
        for kind in kinds for negatives in sets for a, b in pairs for t in horizons_of(row, SCORES[a], horizons)
    ]  # fmt: skip
    results = []
    for kind, negatives, t, a, b in tqdm(jobs, desc="differences", unit="pair"):
        places = [(SCORES[name], t) for name in (a, b)]
        head = {"memorized_kind": kind, "negative_set": negatives, "T": t, "score": a, "less": b}
        results.append(head | {"auc": auc_difference(kinds[kind], sets[negatives], *places, replicates, seed)})
    return results


def auc_difference(mem, nonmem, a, b, replicates, seed):
    """AUC per image of score `a` less that of `b`, each (key, T), with the interval of the same resamples for both."""
    both = [gather(mem, nonmem, key, horizon, "image") for key, horizon in (a, b)]
    weights = bootstrap_weights(both[0].prompts, replicates, seed, both[0].labels)
    point, spread = (
        np.subtract(*(detection_metrics(i.scores, i.labels, w)["auc"] for i in both)) for w in (None, weights)
    )
    return with_interval(point[0], spread)


def add_difference_to_first_step(results, mem_runs, nonmem_runs, replicates=1000, seed=0):
    """Put `auc_difference` to D at T = 1, the cheapest score there is, into the results per image of all images."""
    kinds, sets = label_rows(mem_runs, nonmem_runs)
    most = max(r["images"] for r in results)
    wanted = [r for r in results if r["level"] == "image" and r["images"] == most]
    for r in tqdm(wanted, desc="less D at T = 1", unit="score"):
        places = (r["key"], r["T"]), ("text_noise_norm", 1)
        pair = kinds[r["memorized_kind"]], sets[r["negative_set"]]
        r["auc_difference"] = auc_difference(*pair, *places, replicates, seed)


def difference_table(results):
    """`Table` of the differences, a column for each pair of classes."""
    rows = {}
    for r in results:
        pair = f"{r['memorized_kind']} / {r['negative_set']}"
        rows.setdefault((f"{r['score']} less {r['less']}", r["T"] or "all"), {})[pair] = interval_text(r["auc"])
    headers = ["AUC per image", "T", *next(iter(rows.values()))]
    return Table("Differences on the same images", headers, [[*key, *cells.values()] for key, cells in rows.items()])


def detection_tables(results, differences):
    """AUC of every class side by side, paired differences, and for each class a `Table` of everything."""
    pairs = list(dict.fromkeys((r["memorized_kind"], r["negative_set"]) for r in results))
    tables = [overview(results, pairs), *([difference_table(differences)] if differences else [])]
    return [*tables, *(class_table(results, *pair) for pair in pairs)]


def overview(results, pairs):
    """`Table` of AUC per image with all images of a run, a column for each pair of classes."""
    most = max(r["images"] for r in results)
    some = [r for r in results if r["level"] == "image" and r["images"] == most]
    rows = {}
    for r in some:
        line = rows.setdefault((r["score"], horizon_text(r["key"], r["T"])), {})
        line[r["memorized_kind"], r["negative_set"]] = r["auc"]
    cells = [[*key, *(interval_text(columns[pair]) for pair in pairs)] for key, columns in rows.items()]
    headers = ["score", "T", *(f"{kind} / {negatives}" for kind, negatives in pairs)]
    return Table(f"AUC per image, {most} images a prompt and run", headers, cells)


def class_table(results, kind, negatives):
    some = [r for r in results if (r["memorized_kind"], r["negative_set"]) == (kind, negatives)]
    rows = [
        [r["score"], horizon_text(r["key"], r["T"]), r["level"], r["images"], *metric_cells(r), seed_range(r)]
        for r in some
    ]
    caption = f"{kind} ({some[0]['memorized']} prompts) against {negatives} ({some[0]['negatives']} prompts)"
    few = some[0]["negatives"] < SMALL_NEGATIVES
    headers = [h + "*" if few and h == HEADERS["tpr_at_1_fpr"] else h for h in HEADERS.values()]
    headers = ["score", "T", "per", "images", *headers, "AUC by seed"]
    return Table(caption, headers, rows, FEW if few else "", detail=True)


def metric_cells(result):
    return [interval_text(result[name]) for name in HEADERS]


def seed_range(result):
    values = result["auc_by_seed"]
    return f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "-"


def summary(rows):
    """Markdown table: mean of each score per class and, with labels, AUC per image and per prompt.

    Args:
        rows: an iterable, read once; kept are a few numbers an image.
    """
    labels, scores, costs = [], {}, {}
    for row in rows:
        labels.append(row["is_memorized"])
        costs = row.get("score_costs", {})
        found = score_names(row)
        for key in [*(k for k in NAMES if k in found), *(k for k in found if k not in NAMES)]:
            for horizon in horizons_of(row, key, HORIZONS):
                scores.setdefault((key, horizon), []).append(image_scores(row, key, horizon))
    memorized = [k for k, label in enumerate(labels) if label]
    others = [k for k, label in enumerate(labels) if not label]
    with_auc = None not in labels and bool(memorized) and bool(others)
    headers = ["memorized", "not memorized", "AUC per image", "AUC per prompt"] if with_auc else ["mean"]
    table = []
    for (key, horizon), values in scores.items():
        head = [NAMES.get(key, key), horizon_text(key, horizon)]
        numbers = class_columns(values, memorized, others) if with_auc else [float(np.mean([x.mean() for x in values]))]
        table.append([*head, *numbers, *(cost_of(key, costs) if costs else ())])
    counts = f"{len(memorized)} memorized and {len(others)} other prompts" if with_auc else f"{len(labels)} prompts"
    headers = ["score", "T", *headers, *(("extra evaluations", "gradients") if costs else ())]
    return f"{format_table(headers, table)}\n{counts}; higher = memorized"


def class_columns(values, memorized, others):
    """Means of both classes and AUC per image and per prompt, of one array of image scores a prompt."""
    a, b = ([values[k] for k in group] for group in (memorized, others))
    per_prompt = rank_auc([x.mean() for x in a], [x.mean() for x in b])
    a, b = np.concatenate(a), np.concatenate(b)
    return [float(a.mean()), float(b.mean()), rank_auc(a, b), per_prompt]


def cost_of(key, costs):
    """Evaluations and gradients an image of the signal that a row key belongs to; 0 where it only looks."""
    return costs.get(signal_of(key), (0, 0))
