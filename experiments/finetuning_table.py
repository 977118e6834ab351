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

RESULTS = ROOT / "experiments" / "results" / "finetuning.json"
GROUPS = {"duplicated": True, "once": False}

Measured = Mapping[str, Sequence[Mapping[str, Any]]]  # of one seed: rows by prompt, of trained and ordinary prompts


def entries(measured: Sequence[Measured]) -> dict[str, Any]:
    """The numbers of one cell over its seeds; intervals are over prompts, whose images of all seeds go together.

    Args:
        measured: of each seed, what `experiments.finetuning.measure` gives.
    """
    found: dict[str, Any] = {"seeds": len(measured)}
    for name, is_duplicated in GROUPS.items():
        some = [[row for row in m["trained"] if row["duplicated"] == is_duplicated] for m in measured]
        if any(some):
            found[name] = copies([row for rows in some for row in rows])
            found[name]["by_seed"] = [float(np.mean(flat(rows, "own")[0] > COPY_SIMILARITY)) for rows in some if rows]
    values, prompts = flat([row for m in measured for row in m["ordinary"]], "clip")
    found["clip"] = mean_interval(values, prompts) | {"images": len(values)}
    return found


def flat(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """A measure of all images of some rows, and the prompt of each."""
    values = [np.asarray(row[key], float) for row in rows]
    prompts = [np.full(len(v), row["index"]) for v, row in zip(values, rows, strict=True)]
    return np.concatenate(values), np.concatenate(prompts)


def copies(rows: Sequence[Mapping[str, Any]]) -> dict[str, Measure | Any]:
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
                shown.append(interval_text(cell[group]["similarity"], 2))
                spread = ", ".join(f"{value:.2f}" for value in cell[group]["by_seed"])
                rows.append([cell["cell"], group, *shown, spread, interval_text(cell["clip"], 3)])
    headers = ["fine-tuned with", "pictures", "copies of the own", "copies of any", "own, by pixels"]
    headers += ["similarity to the own", "own, by seed", "ordinary prompts: CLIP"]
    how, images = found["settings"], max(cell["clip"]["images"] for cell in found["cells"])
    text = f"{how['steps']} steps of {how['batch_size']} samples, learning rate {how['lr']}. Copies are above "
    text += f"{COPY_SIMILARITY} by {how['descriptor']}, or below RMSE {COPY_RMSE}; CLIP is the mean of {images} images."
    return f"{format_table(headers, rows)}\n\n{text}"
