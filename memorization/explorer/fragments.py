"""A view as pieces of HTML, which the page of the explorer and the one that is saved both show; all text is escaped."""

import math
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from memorization.evaluation.quality import PLAIN_NUMBERS
from memorization.explorer.curve import draw_curve
from memorization.explorer.pictures import grey, heat, uri
from memorization.explorer.view import Mitigated, View
from memorization.report import page
from memorization.scores import MAGNITUDE, image_scores, score_label
from memorization.similarity.measure import MEASURES
from memorization.tiles import EVERY_LAYER

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "style.css").read_text(encoding="utf-8")
MASKED = "text_noise_norm_masked"
SHOWN_SCORES = ((MAGNITUDE, 1), (MAGNITUDE, None), (MASKED, 1), (MASKED, None))
NAMES = {**MEASURES, **PLAIN_NUMBERS}
BLANK = np.full((64, 64, 3), 128, np.uint8)


@cache
def environment() -> jinja2.Environment:
    found = page.environment(FOLDER)
    found.filters["shown"] = shown_number
    return found


def render(name: str, *values: Any) -> str:
    """A macro of view.html."""
    module: Any = environment().get_template("view.html").module
    return f'<div class="memorization">{getattr(module, name)(*values)}</div>'


def shown_number(value: float, digits: int = 4) -> str:
    """A number with so many digits that count; the exact one stands in the page's source."""
    return f"{value:.{digits}g}" if math.isfinite(value) else "-"


def status(view: View | None = None, fault: str = "") -> str:
    """One line: what is under way, or what went wrong."""
    if fault:
        return render("status", " ".join(fault.split()), "fault")
    if view is None:
        return render("status", "Type a prompt and press Look.", "idle")
    if view.stage:
        steps = f", step {len(view.curve)} of {view.asked.num_inference_steps}" if view.stage == "picture" else ""
        return render("status", f"{view.stage}{steps} ...", "busy")
    told = [f"no {stage}: {why}" for stage, why in view.told.items()]
    return render("status", "; ".join(told) or "Done.", "fault" if told else "done")


def pictures(view: View) -> str:
    image = view.image if view.image is not None else view.preview
    shown: dict[str, Any] = {"image": uri(BLANK if image is None else image), "is_finished": view.image is not None}
    shown["heat"] = uri(heat(view.mask)) if view.mask is not None and view.image is not None else None
    shown["grey"] = uri(grey(view.image)) if shown["heat"] is not None and view.image is not None else None
    return render("pictures", shown, view.record.prompt)


def curve(view: View) -> str:
    controls = view.controls
    drawn = draw_curve(view.curve, view.asked.num_inference_steps, None if controls is None else controls.curves)
    told = "D per step"
    if controls is not None:
        told += f"; grey: the range of {len(controls)} ordinary captions ({Path(controls.source).name}), dashed their "
        told += "median"
    return render("curve", drawn, told)


def scores(view: View) -> str:
    """The scores of a finished picture, each beside the controls and with its p-value; of an unfinished one D(1)."""
    known = dict(view.scores) or ({MAGNITUDE: np.array([view.curve])} if view.curve else {})
    horizons = SHOWN_SCORES if view.scores else SHOWN_SCORES[:1]
    rows = [score_row(view, known, key, horizon) for key, horizon in horizons if key in known]
    controls, note = view.controls, "Higher = more memorized; D at T = 1 is the yardstick."
    if controls is not None:
        note += f" p: share of the {len(controls)} controls and the picture itself that score as high; the least "
        note += f"possible is 1/{len(controls) + 1}."
    return render("scores", rows, note)


def score_row(view: View, known: dict[str, np.ndarray], key: str, horizon: int | None) -> dict[str, Any]:
    score = float(image_scores(known, key, horizon).mean())
    controls = view.controls
    return {
        "key": key,
        "horizon": horizon,
        "name": score_label(key, horizon),
        "score": score,
        "median": None if controls is None else float(np.median(controls.of(key, horizon))),
        "p": None if controls is None else controls.p_value(score, key, horizon),
    }


def measures(view: View) -> str:
    rows = [{"key": key, "name": NAMES.get(key, key), "value": value} for key, value in view.measures.items()]
    return render("measures", rows, "the plain picture") if rows else ""


def tiles(view: View, step: int = 0, layer: int = 0) -> str:
    """
    Args:
        step: counted from 1; 0 is the mean over all steps.
        layer: counted from 1; 0 is the mean over all layers.
    """
    if not view.tiles:
        return ""
    names = list(view.tiles)
    name = names[min(max(layer, 0), len(names) - 1)]
    found = view.tiles[name]
    step = min(max(step, 0), len(found.steps))
    maps = found.mean() if step == 0 else found.maps[step - 1]
    shown = [
        {"token": token, "share": f"{values.mean():.1%}", "image": uri(heat(values))}
        for token, values in zip(found.tokens, maps, strict=True)
    ]
    layers = f"mean over {len(names) - 1} layers" if name == EVERY_LAYER else name.removesuffix(".processor")
    count = view.asked.num_inference_steps
    when = f"mean over {len(found.steps)} steps" if step == 0 else f"step {found.steps[step - 1] + 1} of {count}"
    return render("tiles", shown, f"{when}, {layers}; each tile in its own range, with its share of all attention")


def neighbours(view: View) -> str:
    if view.neighbours is None:
        return ""
    told = "Training pictures, the most similar first, with the copy descriptor's cosine (a copy is above 0.5)."
    if not view.neighbours:
        told = "No training picture of this prompt is known, and no index was given (--index)."
    shown = [{"image": uri(n.image), "text": n.text, "similarity": n.similarity} for n in view.neighbours]
    return render("neighbours", shown, told)


def mitigated(view: View, slot: int) -> str:
    one = view.mitigated.get(slot)
    if one is None or view.image is None:
        return ""
    shown = {"method": one.method, "strength": one.strength, "before": uri(view.image), "after": uri(one.image)}
    return render("mitigated", shown, measure_rows(view, one))


def measure_rows(view: View, one: Mitigated) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {"key": "magnitude_before", "name": "D at the first step, before", "value": one.magnitude_before},
        {"key": "magnitude_after", "name": "D at the first step, under it", "value": one.magnitude_after},
    ]
    rows += [
        {"key": key, "name": NAMES.get(key, key), "value": value, "plain": view.measures.get(key)}
        for key, value in one.measures.items()
    ]
    evals = {"key": "unet_evals_per_image", "name": "UNet evaluations", "value": one.unet_evals_per_image}
    return [*rows, evals]
