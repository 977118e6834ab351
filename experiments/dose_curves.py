"""What a dose of duplication does: shares of copies and AUC of scores by how often a picture was in the training set.

Pure functions from runs over a `planted_doses_groundtruth` to entries, tables and a figure.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.dose_copies import Ruler, by_pixels
from memorization.data.prompts import PromptRecord
from memorization.data.tables import raw_rows
from memorization.evaluation.classes import View, classes_of, gather
from memorization.evaluation.detection import shared_scores
from memorization.evaluation.detection_metrics import auc_measure
from memorization.evaluation.localisation import evaluate_localisation
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure, interval_text
from memorization.finished_runs import Run, method_of, strength_of
from memorization.report.theme import COLORS, MARKERS, legend_below, panels, theme
from memorization.scores import HORIZONS, horizons_of, score_label
from memorization.tables import format_table

SEVERAL = "verbatim, several captions"

Entry = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Prompts of one dose and kind; those with several captions are a kind of their own."""

    kind: str
    dose: int

    @property
    def label(self) -> str:
        return f"{self.kind}, dose {self.dose}"


def groups_of(ground_truth: Path) -> dict[int, Group]:
    """Kind and dose of each index of a `*_groundtruth` folder of a planted world, rising by dose."""
    rows = [row for _, row in raw_rows(ground_truth / f"{ground_truth.name}_repeated.jsonl")]
    found = {r["index"]: Group(SEVERAL if r["num_captions"] > 1 else r["kind"], r["dose"]) for r in rows}
    return dict(sorted(found.items(), key=lambda pair: (pair[1].kind, pair[1].dose)))


def copy_entries(
    run: Run, records: Mapping[int, PromptRecord], groups: Mapping[int, Group], ruler: Ruler = by_pixels
) -> list[Entry]:
    """Share of copied images by dose, with its interval over prompts.

    `prompts_between` counts the prompts of which some images are copies and others are not.
    """
    copied = {row["index"]: ruler(run, row, records[row["index"]]) for row in run.rows}
    entries = []
    for group in dict.fromkeys(groups.values()):
        own = [index for index in copied if groups[index] == group]
        if own:
            flags = np.concatenate([copied[index] for index in own])
            prompts = np.concatenate([np.full(len(copied[index]), index) for index in own])
            between = sum(bool(0 < copied[index].mean() < 1) for index in own)
            head: Entry = {"kind": group.kind, "dose": group.dose, "prompts": len(own), "prompts_between": between}
            entries.append(head | {"copied": share_measure(flags, prompts)})
    return entries


def by_dose(run: Run, groups: Mapping[int, Group]) -> Run:
    """The run with its prompts called by kind and dose, all of them held to be memorized."""
    rows = [{**row, "kind": groups[row["index"]].label, "is_memorized": True} for row in run.rows]
    return replace(run, rows=tuple(rows))


def score_entries(run: Run, others: Sequence[Run], groups: Mapping[int, Group]) -> list[Entry]:
    """AUC per image of every score at every T, by dose, against each set of other prompts."""
    keys, row = shared_scores([run, *others]), run.rows[0]
    views = [View(key, t) for key in keys for t in horizons_of(row, key, HORIZONS)]
    labels = {group.label: group for group in groups.values()}
    entries = []
    for pair in classes_of([by_dose(run, groups)], others).pairs():
        for view in views if pair.kind in labels else ():
            items = gather(pair, view)
            head = {"kind": labels[pair.kind].kind, "dose": labels[pair.kind].dose, "negative_set": pair.negative_set}
            prompts = sum(len(part.rows) for part in pair.memorized)
            head |= {"score": score_label(view.key, view.horizon), "prompts": prompts}
            mean = float(items.scores[items.labels].mean())
            entries.append(head | {"auc": auc_measure(items.scores, items.labels, items.prompts), "mean": mean})
    return entries


def map_entries(run: Run, groups: Mapping[int, Group]) -> list[Entry]:
    """Pixel AUROC of every map against the true mask, by the dose of the template.

    Args:
        run: of detect_mem.py --store_maps.
    """
    labels = {group.label: group for group in groups.values()}
    found = [(labels[r["kind"]], r) for r in evaluate_localisation([by_dose(run, groups)]) if r["kind"] in labels]
    return [
        {"kind": g.kind, "dose": g.dose, "map": r["map"], "prompts": r["prompts"], "auroc": r["auroc"]}
        for g, r in found
        if g.kind == "template"
    ]


def mitigation_entries(
    runs: Iterable[Run], records: Mapping[int, PromptRecord], groups: Mapping[int, Group], ruler: Ruler = by_pixels
) -> list[Entry]:
    """Share of copied images by dose under each mitigation."""
    return [
        {"method": method_of(run), "strength": strength_of(run)} | entry
        for run in runs
        for entry in copy_entries(run, records, groups, ruler)
    ]


def dose_table(entries: Sequence[Entry], head: str, measure: str, digits: int = 2) -> str:
    """A row for each value of `head` and kind, a column for each dose.

    Args:
        head: key of the entries that names rows, such as "score"; an empty one for the kind alone.
        measure: key of what is shown, with its interval.
    """
    doses = sorted({e["dose"] for e in entries})
    rows: dict[tuple[str, str], dict[int, Measure]] = {}
    for e in entries:
        rows.setdefault((str(e.get(head, "")), e["kind"]), {})[e["dose"]] = e[measure]
    cells = [
        [*([name] if head else []), kind, *(interval_text(row[d], digits) if d in row else "" for d in doses)]
        for (name, kind), row in rows.items()
    ]
    return format_table([*([head] if head else []), "kind", *(f"dose {d}" for d in doses)], cells)


def mitigation_table(entries: Sequence[Entry]) -> str:
    """Share of copied images by dose under each mitigation at each strength; empty without any."""
    named = [entry | {"method": f"{entry['method']} {entry['strength']:g}"} for entry in entries]
    return dose_table(named, "method", "copied") if named else ""


def dose_figure(copies: Sequence[Entry], scores: Sequence[Entry], shown: Sequence[str]) -> Figure:
    """Share of copies and AUC against dose, one panel a kind.

    Args:
        shown: scores that are drawn, by their labels.
    """
    kinds = list(dict.fromkeys(e["kind"] for e in copies))
    with theme():
        figure, axes = panels(len(kinds), 3.4, 2.9)
        for axis, kind in zip(axes, kinds, strict=True):
            curves = {"copied": [(e["dose"], e["copied"]) for e in copies if e["kind"] == kind]}
            for e in scores:
                if e["kind"] == kind and e["score"] in shown:
                    curves.setdefault(f"AUC of {e['score']}", []).append((e["dose"], e["auc"]))
            for k, (name, points) in enumerate(curves.items()):
                doses, values = zip(*sorted(points, key=lambda p: p[0]), strict=True)
                middle = np.array([v["value"] for v in values])
                reach = np.abs(np.array([[v["low"] for v in values], [v["high"] for v in values]]) - middle)
                style = {"color": COLORS[k], "marker": MARKERS[k], "markersize": 4, "capsize": 2}
                axis.errorbar(doses, middle, reach, label=name, **style)
            axis.set(xscale="log", xlabel="times in the training set", title=kind, ylim=(-0.03, 1.03))
            axis.set_xticks(sorted({e["dose"] for e in copies}), [str(d) for d in sorted({e["dose"] for e in copies})])
            axis.minorticks_off()
        legend_below(figure, axes[0])
    return figure
