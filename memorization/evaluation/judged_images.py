"""A line for every image: how near its training pictures are, whose is the nearest, and whether it is a copy."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from memorization.evaluation.decisions import benjamini_hochberg, conformal_p_values
from memorization.similarity.descriptions import Described
from memorization.similarity.nearest import TrainingPictures

ALL = "all"  # kind of prompts that have none
Line = dict[str, Any]  # of one image: where it is from and what was found
Away = Callable[[np.ndarray], np.ndarray]  # from unit descriptors (images, dim) to what their cosines are lowered by


def compare(
    parts: Iterable[Described],
    training: TrainingPictures,
    away: Away,
    are_controls: bool = False,
    pictures: TrainingPictures | None = None,
) -> list[Line]:
    """One line per image: similarity to its own and to the nearest training picture, and whose that is.

    Args:
        away: what is taken away of the cosines.
        are_controls: images that have no training picture of their own, whatever their index.
        pictures: what controls' captions belong to and the model never saw, by the controls' indices. An image is like
            a picture of the same caption without being a copy, so controls are compared with theirs as well.
    """
    lines: list[Line] = []
    seen: set[str] = set()
    for part in parts:
        row, lowered = part.row, away(part.descriptors)
        found = training.compare(part.descriptors, None if are_controls else row["index"])
        if pictures is not None:
            own = pictures.compare(part.descriptors, row["index"]).own
            found = replace(found, nearest=np.fmax(found.nearest, own))
        for k, seed in enumerate(row["seeds"]):
            head = {"run": part.run.key, "index": row["index"], "prompt": row["prompt"], "kind": row.get("kind") or ALL}
            lines.append(
                head
                | {"seed": seed, "first": row["prompt"] not in seen, "cosine_own": float(found.own[k])}
                | {"cosine": float(found.nearest[k]), "nearest_index": int(found.owners[k])}
                | {"nearest_picture": int(found.places[k])}
                | {"own": float(found.own[k] - lowered[k]), "nearest": float(found.nearest[k] - lowered[k])}
                | {"is_right": float(found.is_right[k])}
            )
            seen.add(row["prompt"])
    return lines


def decide(lines: Sequence[Line], controls: Sequence[Line], fdr: float) -> None:
    """Put p-value, q-value and whether it is called a copy into the line of every image.

    Images of one prompt are no independent evidence: of every control prompt the first image counts.

    Args:
        lines, controls: of `compare`.
    """
    first = column([line for line in controls if line["first"]], "nearest")
    p_values = conformal_p_values(column(lines, "nearest"), first)
    q_values = benjamini_hochberg(p_values)
    for line, p, q in zip(lines, p_values.tolist(), q_values.tolist(), strict=True):
        line |= {"p": p, "q": q, "is_copy": q <= fdr}


def decide_prompts(lines: Sequence[Line], controls: Sequence[Line], fdr: float) -> None:
    """The same with prompts in place of images: the rate is over them, each by its image that is most like a picture.

    Of a control prompt the highest image counts as well, so that it has to have as many images as a prompt. Every kind
    of prompt is decided by itself: few copies are not found among many prompts that hardly ever give one.

    Args:
        lines, controls: of `compare`.
    """
    p_values = conformal_p_values(
        column(lines, "nearest"), [-low for low in lowest_of_prompts(controls, "nearest", -1)]
    )
    for line, p in zip(lines, p_values.tolist(), strict=True):
        line["p"] = p
    for kind in dict.fromkeys(line["kind"] for line in lines):
        some = [line for line in lines if line["kind"] == kind]
        lowest = np.sort(lowest_of_prompts(some, "p"))
        q_values = np.append(benjamini_hochberg(lowest), 1.0)
        for line, q in zip(some, q_values[np.searchsorted(lowest, column(some, "p"))].tolist(), strict=True):
            line |= {"q": q, "is_copy": q <= fdr}


def lowest_of_prompts(lines: Sequence[Line], name: str, sign: int = 1) -> list[float]:
    """Of every prompt the lowest value that its images have, times `sign`."""
    found: dict[str, float] = {}
    for line in lines:
        found[line["prompt"]] = min(found.get(line["prompt"], np.inf), sign * line[name])
    return list(found.values())


def column(lines: Sequence[Line], name: str) -> np.ndarray:
    return np.array([line[name] for line in lines], float)


def without_nan(values: np.ndarray) -> np.ndarray:
    return values[~np.isnan(values)]
