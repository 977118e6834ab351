"""Tables of evaluated detection: AUC of all classes side by side, differences, and every metric of each."""

from collections.abc import Sequence

from memorization.evaluation.detection_metrics import DETECTION_METRICS, SMALL_NEGATIVES
from memorization.evaluation.statistics import Result, interval_text
from memorization.scores import horizon_text
from memorization.tables import Table

ORACLE = "Best F1 and accuracy take the best threshold on these items: an oracle."
FEW = f"* Fewer than {SMALL_NEGATIVES} negative prompts: TPR at 1 % FPR hangs on the highest, as its interval says."
HANGS_ON_FEW = "tpr_at_1_fpr"  # the metric that the note is about


def detection_tables(results: Sequence[Result], differences: Sequence[Result]) -> list[Table]:
    """Every table of detection.

    Args:
        results: of `detection.evaluate_detection`.
        differences: of `detection.evaluate_differences`; their table is left out without any.
    """
    pairs = list(dict.fromkeys((r["memorized_kind"], r["negative_set"]) for r in results))
    tables = [overview(results, pairs), *([difference_table(differences)] if differences else [])]
    return [*tables, *(class_table(results, *pair) for pair in pairs)]


def overview(results: Sequence[Result], pairs: Sequence[tuple[str, str]]) -> Table:
    """AUC per image with all images of a run, a column per pair of classes."""
    most = max(r["images"] for r in results)
    rows: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
    for r in results:
        if r["level"] == "image" and r["images"] == most:
            line = rows.setdefault((r["score"], horizon_text(r["key"], r["T"])), {})
            line[r["memorized_kind"], r["negative_set"]] = interval_text(r["auc"])
    cells = [[*key, *(columns[pair] for pair in pairs)] for key, columns in rows.items()]
    headers = ["score", "T", *(f"{kind} / {negatives}" for kind, negatives in pairs)]
    return Table(f"AUC per image, {most} images a prompt and run", headers, cells)


def difference_table(results: Sequence[Result]) -> Table:
    """Differences of AUC, a column per pair of classes."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for r in results:
        pair = f"{r['memorized_kind']} / {r['negative_set']}"
        line = rows.setdefault((f"{r['score']} less {r['less']}", str(r["T"] or "all")), {})
        line[pair] = interval_text(r["auc"])
    headers = ["AUC per image", "T", *next(iter(rows.values()))]
    return Table("Differences on the same images", headers, [[*key, *cells.values()] for key, cells in rows.items()])


def class_table(results: Sequence[Result], kind: str, negatives: str) -> Table:
    """Every metric of every score for one pair of classes."""
    some = [r for r in results if (r["memorized_kind"], r["negative_set"]) == (kind, negatives)]
    rows = [
        [
            *(r["score"], horizon_text(r["key"], r["T"]), r["level"], r["images"]),
            *(interval_text(r[name]) for name in DETECTION_METRICS),
            seed_range(r["auc_by_seed"]),
        ]
        for r in some
    ]
    caption = f"{kind} ({some[0]['memorized']} prompts) against {negatives} ({some[0]['negatives']} prompts)"
    few = some[0]["negatives"] < SMALL_NEGATIVES
    metrics = [m.label + "*" if few and name == HANGS_ON_FEW else m.label for name, m in DETECTION_METRICS.items()]
    headers = ["score", "T", "per", "images", *metrics, "AUC by seed"]
    return Table(caption, headers, rows, f"{ORACLE} {FEW}" if few else ORACLE, detail=True)


def seed_range(values: Sequence[float]) -> str:
    return f"{min(values):.3f} to {max(values):.3f}" if len(values) > 1 else "-"
