"""The table of fine-tunings: what comes back of the pictures, and what ordinary prompts keep, out of every image."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from memorization.bundled import ROOT
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure, interval_text, mean_interval
from memorization.similarity.pixels import COPY_SIMILARITY
from memorization.tables import format_table
from planted.making.model_measures import COPY_RMSE

REFERENCE = "image and caption"  # the cell that others are compared with, image by image
RESULTS = ROOT / "experiments" / "results" / "finetuning.json"
GROUPS = {"duplicated": True, "once": False}

Row = Mapping[str, Any]  # of one prompt: its index, and numbers with one entry per image
Measured = Mapping[str, Sequence[Row]]  # of one seed: rows of trained and of ordinary prompts


def entries(measured: Mapping[int, Measured], reference: Mapping[int, Measured]) -> dict[str, Any]:
    """The numbers of one cell over its seeds; intervals are over prompts, whose images of all seeds go together.

    Args:
        measured: by seed, what `experiments.finetuning.measure` gives.
        reference: that of the cell that it is compared with, where it has the seed; itself has no change.
    """
    reference = {} if reference is measured else reference
    found: dict[str, Any] = {"seeds": len(measured)}
    for name, is_duplicated in GROUPS.items():
        some = {seed: of_group(m, is_duplicated) for seed, m in measured.items()}
        if any(some.values()):
            found[name] = copies([row for rows in some.values() for row in rows])
            shares = [np.mean(flat(rows, "own")[0] > COPY_SIMILARITY) for rows in some.values() if rows]
            found[name]["by_seed"] = [float(share) for share in shares]
            others = {seed: of_group(m, is_duplicated) for seed, m in reference.items()}
            found[name]["similarity_change"] = change(some, others, "own")
    ordinary, others = ({seed: m["ordinary"] for seed, m in some.items()} for some in (measured, reference))
    values, prompts = flat([row for rows in ordinary.values() for row in rows], "clip")
    found["clip"] = mean_interval(values, prompts) | {"images": len(values)}
    found["clip_change"] = change(ordinary, others, "clip")
    return found


def of_group(measured: Measured, is_duplicated: bool) -> list[Row]:
    return [row for row in measured["trained"] if row["duplicated"] == is_duplicated]


def change(found: Mapping[int, Sequence[Row]], others: Mapping[int, Sequence[Row]], key: str) -> Measure | None:
    """Mean of a measure less that of another cell, image by image: of one seed, prompt and noise.

    None where no image has its counterpart.
    """
    differences: list[Row] = []
    for seed, rows in found.items():
        by_prompt = {row["index"]: row for row in others.get(seed, ())}
        pairs = [(row, by_prompt[row["index"]]) for row in rows if row["index"] in by_prompt]
        differences += [{"index": a["index"], key: np.subtract(a[key], b[key])} for a, b in pairs]
    return mean_interval(*flat(differences, key)) if differences else None


def flat(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure of all images of some rows, and the prompt of each."""
    values = [np.asarray(row[key], float) for row in rows]
    prompts = [np.full(len(v), row["index"]) for v, row in zip(values, rows, strict=True)]
    return np.concatenate(values), np.concatenate(prompts)


def copies(rows: Sequence[Row]) -> dict[str, Measure | Any]:
    """Share of images that are copies of the caption's own picture, by descriptor and by pixels, or of any picture."""
    (own, prompts), (nearest, _), (rmse, _) = (flat(rows, key) for key in ("own", "nearest", "rmse"))
    return {
        "own_copied": share_measure(own > COPY_SIMILARITY, prompts),
        "any_copied": share_measure(nearest > COPY_SIMILARITY, prompts),
        "rmse_copied": share_measure(rmse < COPY_RMSE, prompts),
        "similarity": mean_interval(own, prompts),
    }


def finetuning_table(found: Mapping[str, Any]) -> str:
    """A row for each cell and group of pictures, and below what they have in common."""
    rows = []
    for cell in found["cells"]:
        for group in GROUPS:
            if group in cell:
                shown = [interval_text(cell[group][key], 2) for key in ("own_copied", "any_copied", "rmse_copied")]
                shown += [interval_text(cell[group]["similarity"], 2), change_text(cell[group]["similarity_change"])]
                rows.append(
                    [cell["cell"], group, *shown, interval_text(cell["clip"], 3), change_text(cell["clip_change"])]
                )
    headers = ["fine-tuned with", "pictures", "copies of the own", "copies of any", "own, by pixels"]
    headers += ["similarity to the own", "change of it", "ordinary prompts: CLIP", "change of it"]
    how, images = found["settings"], max(cell["clip"]["images"] for cell in found["cells"])
    text = f"{how['steps']} steps of {how['batch_size']} samples, learning rate {how['lr']}. Copies are above "
    text += f"{COPY_SIMILARITY} by {how['descriptor']}, or below RMSE {COPY_RMSE}; CLIP is the mean of {images} images."
    text += f" Changes are from `{REFERENCE}`, image by image of one seed, prompt and noise."
    return f"{format_table(headers, rows)}\n\n{text}"


def change_text(change: Measure | None) -> str:
    """A change with its interval and sign; a dash where there is none."""
    return "-" if change is None else ("+" if change["value"] > 0 else "") + interval_text(change, 2)
