"""One picture from prompt to everything that is shown of it, stage by stage, by the calls that the scripts use."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from memorization.api import detect
from memorization.errors import InputError
from memorization.explorer.controls import measure_controls
from memorization.explorer.stopping import watched
from memorization.explorer.view import View
from memorization.explorer.world import World
from memorization.tiles import TileRecorder, layer_recorder
from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

PREVIEWS = 5  # unfinished pictures that are decoded on the way
PACE = 0.2  # seconds between what is told of an unfinished picture: to draw and to send it takes time from the loop
STAGE_CONTROLS = "controls"
Tell = Callable[[View], None]


def look(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    """Generate and observe one picture; every change is told.

    Raises:
        InputError: if the picture itself cannot be made; what else cannot be is said in the view.
    """
    view = generate(world, pipe, view, tell)
    for stage, work in STAGES.items():
        view = replace(view, stage=stage)
        tell(view)
        try:
            view = work(world, pipe, view, tell)
        except InputError as error:
            view = replace(view, told={**view.told, stage: str(error)})
        tell(view)
    view = replace(view, stage="")
    tell(view)
    return view


def generate(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    """The picture, its scores, the bright ending and the tiles: a detection run of one prompt, looked on at."""
    asked, curve, tell_some = view.asked, [], paced(tell, PACE)
    view = replace(view, stage="picture", controls=world.controls.get(view.asked))
    tell(view)
    recorder, view = open_recorder(pipe, view)

    def see(step: "DenoiseStep", count: int) -> None:
        nonlocal view
        curve.append(float(noise_diff_norm(step.noise_diff)[0]))
        view = replace(view, curve=tuple(curve))
        if recorder is not None:
            recorder.see(step)
        if step.index + 1 < count and (step.index + 1) % max(1, count // PREVIEWS) == 0:
            view = replace(view, preview=pipe.decode(step.next_latents[:1])[0])
        tell_some(view)

    with watched(pipe, see, {} if recorder is None else recorder.stores):
        (found,) = detect(
            pipe,
            view.record,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            gen_seed=asked.seed,
        )
    assert found.images is not None
    mask = None if found.mask is None else found.mask[0]
    view = replace(view, image=found.images[0], scores=found.scores, mask=mask)
    tell(view)  # the picture does not wait for what is drawn of the tiles
    return view if recorder is None else replace(view, tiles=recorder.tiles(found.images[0]))


def open_recorder(pipe: "DenoisingPipeline", view: View) -> tuple[TileRecorder | None, View]:
    """What keeps the tiles of a generation; none, and why not in the view, where the model has no such attention."""
    try:
        return layer_recorder(pipe, view.record.prompt, view.asked.num_inference_steps), view
    except InputError as error:
        return None, replace(view, told={**view.told, "tokens": str(error)})


def paced(tell: Tell, seconds: float) -> Tell:
    """Tells the first at once, and leaves out what comes sooner than so many seconds after the one before it."""
    last = -math.inf

    def telling(view: View) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            tell(view)
            last = time.monotonic()

    return telling


def find_neighbours(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    image, record = view.image, view.record
    assert image is not None
    measures = world.measures.of(image, record, view.asked.sampling.seeds(record), view.mask)
    tell(replace(view, measures=measures))
    return replace(view, measures=measures, neighbours=world.measures.neighbours(image, record))


def find_controls(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    """The band; the first picture of its way of sampling waits for the captions to be measured, the others do not."""
    known = world.controls.get(view.asked)
    if known is None and world.controls.records:

        def told(count: int) -> None:
            tell(replace(view, stage=f"{STAGE_CONTROLS}: {count} of {len(world.controls.records)} ordinary captions"))

        known = measure_controls(pipe, world.controls.records, view.asked.sampling, world.controls.source, told)
        world.controls.keep(view.asked, known)
    quality = {} if known is None else world.measures.quality(known, view.image)
    return replace(view, controls=known, measures={**view.measures, **quality})


STAGES: dict[str, Callable[[World, "DenoisingPipeline", View, Tell], View]] = {
    "training pictures": find_neighbours,
    STAGE_CONTROLS: find_controls,
}
