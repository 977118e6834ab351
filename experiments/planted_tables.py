"""Tables of the planted world, out of the numbers that are kept of it: what its model, its evaluators and its doses do.

Pure functions from what the kept files hold to Markdown, for `python -m tools.write_docs`; what is not measured yet
says so in its place.

planted/planted_report.json                     planted/making/check_model.py
planted/planted_evaluators/report.json          planted/making/evaluators/measure.py
experiments/results/planted/rulers.json         python -m experiments.rulers
experiments/results/planted/doses.json          python -m experiments.doses
experiments/results/planted_parts/              the parts of the world, measured alone
experiments/results/pictures/                   the same files of a world of real pictures
experiments/results/finetuning.json             python -m experiments.finetuning
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from experiments.dose_curves import dose_table, mitigation_table
from experiments.doses import OTHERS
from experiments.finetuning_table import RESULTS as FINETUNING
from experiments.finetuning_table import finetuning_table
from experiments.published import RESULTS
from experiments.rulers import agreement_table, rulers_table
from experiments.worlds import worlds_table
from memorization.bundled import PLANTED
from memorization.evaluation.statistics import interval_text
from memorization.scores import MAGNITUDE, score_label
from memorization.tables import format_table, parse_results
from planted.making.doses import KINDS
from planted.making.model_tables import detection_table, facts_table, localisation_table

NOT_MEASURED = "not measured yet"
REPORT, EVALUATORS = PLANTED / "planted_report.json", PLANTED / "planted_evaluators" / "report.json"
RULERS, DOSES = (RESULTS / "planted" / f"{name}.json" for name in ("rulers", "doses"))
PARTS, PICTURES = RESULTS / "planted_parts", RESULTS / "pictures"

Record = Mapping[str, Any]


def table(make: Callable[..., str], *paths: Path) -> str:
    """A table of what some files hold; the line that it is not measured yet where one is missing.

    Args:
        make: from the content of each file to the table.
    """
    texts = [path.read_text(encoding="utf-8") for path in paths if path.exists()]
    if len(texts) < len(paths):
        return NOT_MEASURED
    return make(*map(parse_results, texts)) or NOT_MEASURED


# The evaluators


RETRIEVAL = {
    "average precision over all pairs": "micro_average_precision",
    "precision at 0.5, the field's cut": "precision_at_0.5",
    "recall at 0.5": "recall_at_0.5",
    "threshold of precision 0.9": "threshold_of_precision_0.9",
    "recall there": "recall_at_that_threshold",
}
GENERATED = {"verbatim": "min", "template": "min", "planted, to others": "max", "unseen, to planted": "max"}


def evaluators_table(report: Record, preprocessing: str = "wen") -> str:
    """The copy descriptor on altered copies, on pictures that are copied in part, and on generated images."""
    found = report["copy_descriptor"][preprocessing]
    whole, some = (found["retrieval"][name] for name in ("all", "without objects"))
    rows = [[text, whole[key], some[key]] for text, key in RETRIEVAL.items()]
    for name, numbers in found["partial copies"].items():
        if name.endswith("% copied"):
            rows.append([f"{name} of the picture: mean similarity (AUC)", "", mean_text(numbers, "auc")])
    rows.append(
        ["planted pictures to each other: mean (highest)", "", mean_text(found["planted, to each other"], "max")]
    )
    for name, end in GENERATED.items() if "generated" in found else ():
        text = f"generated, {name}: mean ({'lowest' if end == 'min' else 'highest'})"
        rows.append([text, "", mean_text(found["generated"][name], end)])
    return format_table([f"copy descriptor, preprocessing {preprocessing}", "all scenes", "without objects"], rows)


def mean_text(numbers: Record, other: str) -> str:
    return f"{numbers['mean']:.3f} ({numbers[other]:.3f})"


def clip_table(report: Record) -> str:
    """How often the CLIP finds what a picture shows, sharp and blurred; what it makes of planted pictures below."""
    clip = report["clip"]
    sharp, blurred = ({part: clip[name][part] for part in ("objects", "clutter")} for name in ("blur_0", "blur_1"))
    rows = [["objects, the right caption", *top(sharp, blurred, "objects", "top1", "chance")]]
    for word in sharp["objects"]:
        if word not in ("top1", "chance"):
            rows.append([f"objects, the {word} of it", *top(sharp, blurred, "objects", word)])
    rows.append(["clutter, the right caption", *top(sharp, blurred, "clutter", "top1", "chance")])
    rows.append(["clutter, its colour", *top(sharp, blurred, "clutter", "color", "color_chance")])
    rows.append(["clutter, its kind of thing", *top(sharp, blurred, "clutter", "kind_of_thing", "kind_chance")])
    pairs = clip["planted_pairs"]
    text = (
        f"Verbatim captions: cosine {pairs['planted_mean']:.3f} to their planted picture, {pairs['fresh_mean']:.3f} to"
    )
    text += f" fresh clutter of their kind; difference {pairs['difference']:.3f}, standard error"
    headers = ["CLIP: is it the nearest?", "accuracy", "blurred", "chance"]
    return f"{format_table(headers, rows)}\n\n{text} {pairs['standard_error']:.3f}."


def top(sharp: Record, blurred: Record, part: str, key: str, chance: str | None = None) -> list[object]:
    return [sharp[part][key], blurred[part][key], "" if chance is None else sharp[part][chance]]


# Copies by several descriptors, and by dose


def copy_rulers(found: Record) -> str:
    return rulers_table({name: judged["results"] for name, judged in found["descriptors"].items()})


def ruler_agreement(found: Record) -> str:
    """The line of what is not measured for a single descriptor, which agrees with none."""
    return agreement_table(found["agreement"]) if found["agreement"] else ""


def dose_scores(found: Record) -> str:
    """AUC per image against unseen prompts."""
    unseen = [e for e in found["scores"] if e["negative_set"] == OTHERS[0]]
    return dose_table(unseen, "score", "auc")


def dose_near_misses(found: Record) -> str:
    """AUC per image of templates against near misses, of the global and the local score and its control."""
    shown = [e for e in found["scores"] if e["negative_set"] == OTHERS[1] and e["kind"] == KINDS[1]]
    return dose_table([e for e in shown if e["score"].startswith(("D,", "LD,", "LD shuffled"))], "score", "auc")


# The parts of the world


def context_of_words(held: Record, free: Record) -> str:
    """AUC per image where a text encoder holds words and padding to one content, and where they are free as CLIP's."""
    rows = []
    for one, other in zip(held["scores"], free["scores"], strict=True):
        is_shown = one["key"] in (MAGNITUDE, "end_token_attention") and one["T"] in (1, None)
        if is_shown and one["memorized_kind"] in KINDS:
            name = f"{score_label(one['key'], one['T'])}: {one['memorized_kind']}"
            rows.append([name, interval_text(one["auc"]), interval_text(other["auc"])])
    return format_table(["AUC per image", "words and padding held", "free"], rows)


def autoencoder(found: Record) -> str:
    """What planted pictures keep of themselves in the autoencoder."""
    rows = [[name, m if isinstance(m, float) else interval_text(m)] for name, m in found["measured"].items()]
    return format_table([f"{found['pictures']} verbatim pictures, {found['descriptor']}", "value"], rows)


def dose_copies(found: Record) -> str:
    return dose_table(found["copies"], "ruler", "copied")


def missed_copies(found: Record) -> str:
    """How many images of near misses are copies of what the caption beside them planted."""
    return dose_table(found["near_misses"], "ruler", "copied")


def dose_maps(found: Record) -> str:
    return dose_table(found["maps"], "map", "auroc")


def dose_mitigations(found: Record) -> str:
    return mitigation_table(found["mitigations"])


Source = tuple[Callable[..., str], Sequence[Path]]
WORLDS = {"dose": DOSES, "pictures": PICTURES / "doses.json"}  # by what the names of their tables begin with
BY_DOSE: dict[str, Callable[[Record], str]] = {
    "copies": dose_copies,
    "missed": missed_copies,
    "scores": dose_scores,
    "near_misses": dose_near_misses,
    "maps": dose_maps,
    "mitigations": dose_mitigations,
}
SOURCES: dict[str, Source] = {
    "bundled_model": (facts_table, [REPORT]),
    "bundled_detection": (detection_table, [REPORT]),
    "bundled_localisation": (localisation_table, [REPORT]),
    "bundled_evaluators": (evaluators_table, [EVALUATORS]),
    "bundled_clip": (clip_table, [EVALUATORS]),
    "copy_rulers": (copy_rulers, [RULERS]),
    "ruler_agreement": (ruler_agreement, [RULERS]),
    "context_of_words": (context_of_words, [PARTS / f"context_{name}.json" for name in ("held", "free")]),
    "autoencoder": (autoencoder, [PARTS / "autoencoder.json"]),
    "finetuning": (finetuning_table, [FINETUNING]),
    "pictures_autoencoder": (autoencoder, [PICTURES / "autoencoder.json"]),
    "pictures_rulers": (copy_rulers, [PICTURES / "rulers.json"]),
    "worlds": (worlds_table, [*WORLDS.values()]),
    **{f"{world}_{name}": (make, [path]) for world, path in WORLDS.items() for name, make in BY_DOSE.items()},
}
TABLES: dict[str, Callable[[], str]] = {name: partial(table, make, *paths) for name, (make, paths) in SOURCES.items()}
