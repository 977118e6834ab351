"""Tables of what check_model.py measures: aims beside what was found, AUC of every score, pixel AUROC of every map.

Pure functions from the report to Markdown.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memorization.evaluation.candidate_maps import BRIGHT_ENDING, SHUFFLED
from memorization.evaluation.statistics import interval_text
from memorization.tables import format_table
from planted.making.model_measures import COPY_RMSE, PAIRS, Entry

NOT_REACHED = "**not reached**"


@dataclass(frozen=True)
class Fact:
    """A number of the report that the table of facts shows.

    Attributes:
        text: what it is.
        path: keys that lead to its entry.
        least, below: what was aimed at, a number that it should reach or stay below; None for no aim.
    """

    text: str
    path: tuple[str, ...]
    least: float | None = None
    below: float | None = None

    @property
    def aim(self) -> str:
        if self.least is not None:
            return f"at least {self.least:.2f}"
        return "" if self.below is None else f"below {self.below:.2f}"

    def is_reached(self, value: float) -> bool:
        """Whether a value is as aimed at; one that is not defined reaches nothing."""
        if self.least is not None:
            return value >= self.least
        return self.below is None or value < self.below


FACTS = (
    Fact(f"verbatim prompts give the planted picture (RMSE below {COPY_RMSE})", ("copies", "verbatim_copied"), 0.9),
    Fact("templates give their fixed region", ("copies", "template_region_copied"), 0.9),
    Fact("unseen prompts give a planted picture or region", ("copies", "false_copies_nonmemorized"), below=0.01),
    Fact("near misses give one", ("copies", "false_copies_near_miss")),
    Fact("median RMSE, verbatim", ("copies", "verbatim_median_rmse")),
    Fact("median RMSE, fixed region of templates", ("copies", "template_region_median_rmse")),
    Fact("median RMSE, unseen to the nearest", ("copies", "nonmemorized_median_rmse_to_nearest")),
    Fact("free over fixed region, MSE between seeds", ("copies", "free_over_fixed_mse_between_seeds")),
    Fact("pixel values that are 0 or 255", ("copies", "saturated_pixels")),
    Fact("the same, training pictures", ("copies", "saturated_pixels_in_training_images")),
    Fact("asked object in the asked colour, held-out captions", ("probe", "asked", "all"), 0.8),
    Fact("asked object", ("probe", "asked", "object")),
    Fact("asked colour", ("probe", "asked", "color")),
    Fact("D, T=1: AUC, verbatim and unseen", ("detection_auc", "D, T=1", "verbatim vs nonmemorized"), 0.99),
    Fact(
        "mean end-token attention: AUC, memorized and unseen",
        ("detection_auc", "end-token attention", "memorized vs nonmemorized"),
        0.9,
    ),
    Fact("bright-ending mask: pixel AUROC, templates", ("localisation_pixel_auroc", BRIGHT_ENDING), 0.75),
    Fact("the same, shuffled", ("localisation_pixel_auroc", SHUFFLED)),
)


def facts_table(report: Mapping[str, Any]) -> str:
    """What was aimed at and what was measured, with interval and n; what was not reached says so."""
    rows = []
    for fact in FACTS:
        found: Any = report
        for key in fact.path:
            found = found[key]
        text = entry_text(found) if fact.is_reached(number(found["value"])) else f"{NOT_REACHED}: {entry_text(found)}"
        rows.append([fact.text, fact.aim, text, f"{found['n']} of {found['prompts']}"])
    return format_table(["", "aimed at", "measured", "n of prompts"], rows)


def detection_table(report: Mapping[str, Any]) -> str:
    """AUC per image of every score: either kind of planted prompts against unseen ones and near misses."""
    scores = report["detection_auc"]
    rows = [[name, *(entry_text(row[pair]) for pair in PAIRS)] for name, row in scores.items()]
    return format_table(["AUC per image", *(pair_text(pair) for pair in PAIRS)], rows)


def localisation_table(report: Mapping[str, Any]) -> str:
    """Pixel AUROC of every map on templates, the best first; a map without a number last."""
    maps = report["localisation_pixel_auroc"]
    order = sorted(maps, key=lambda name: -nan_last(number(maps[name]["value"])))
    some = maps[BRIGHT_ENDING]
    header = f"pixel AUROC, {some['n']} images of {some['prompts']} templates"
    return format_table(["map", header], [[name, entry_text(maps[name])] for name in order])


def all_tables(report: Mapping[str, Any]) -> str:
    return "\n\n".join(make(report) for make in (facts_table, detection_table, localisation_table))


def pair_text(pair: str) -> str:
    return pair.replace("nonmemorized", "unseen").replace("near_miss", "near miss").replace(" vs ", ", ")


def entry_text(entry: Entry) -> str:
    """`0.912 [0.871, 0.948]`; a dash for what is not defined."""
    low, high = map(number, entry["interval"])
    return interval_text({"value": number(entry["value"]), "low": low, "high": high})


def number(value: float | None) -> float:
    """A number of the report, in which null stands for NaN."""
    return math.nan if value is None else value


def nan_last(value: float) -> float:
    return -math.inf if math.isnan(value) else value
