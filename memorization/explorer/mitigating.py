"""The same seed under a mitigation, with its numbers beside those of the plain picture."""

import math
from typing import TYPE_CHECKING

from memorization.api import check_method, mitigate
from memorization.errors import InputError
from memorization.explorer.view import Mitigated, View
from memorization.explorer.world import World
from memorization.mitigations.base import MITIGATIONS, Mitigation

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


def strength_range(method: Mitigation, is_bundled: bool) -> tuple[float, float, float]:
    """Largest strength of a slider that begins at 0, its step, and where it stands at first."""
    sweep = (method.bundled_sweep if is_bundled else ()) or method.sweep or (1.0,)
    largest = method.largest or max(sweep) * 1.5
    if method.whole:
        return round(largest), 1, round(sweep[len(sweep) // 2])
    return round(largest, 4), round(largest / 200, 4), sweep[len(sweep) // 2]


def mitigate_view(world: World, pipe: "DenoisingPipeline", view: View, method: object, strength: object) -> Mitigated:
    """The view's picture under a mitigation: `inference_mem.py` of one prompt.

    Raises:
        InputError: if there is no such method or strength, or it is not defined for the model.
    """
    if not isinstance(method, str) or not isinstance(strength, int | float) or not math.isfinite(strength):
        raise InputError("a mitigation has a name and a strength")
    asked = view.asked
    check_method(method, strength)
    (found,) = mitigate(
        pipe,
        view.record,
        method,
        strength,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        gen_seed=asked.seed,
    )
    image = found.images[0]
    measures = world.measures.of(image, view.record, found.seeds, view.mask)
    if view.controls is not None:
        measures |= world.measures.quality(view.controls, image)
    return Mitigated(
        method,
        float(strength),
        image,
        found.magnitude_before[0],
        found.magnitude_after[0],
        found.unet_evals_per_image,
        measures,
    )


def method_names() -> list[str]:
    return list(MITIGATIONS)
