"""One picture from prompt to everything that is shown of it, stage by stage, by the calls that the scripts use."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from memorization.api import detect
from memorization.errors import InputError
from memorization.explorer.controls import measure_controls
from memorization.explorer.stopping import watched
from memorization.explorer.view import View
from memorization.explorer.world import World
from memorization.tiles import layer_tiles
from noise_norms import noise_diff_norm

if TYPE_CHECKING:
    from local_sd_pipeline import DenoiseStep, DenoisingPipeline

PREVIEWS = 5  # unfinished pictures that are decoded on the way
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
    """The picture, its scores and the bright ending: a detection run of one prompt."""
    asked, curve = view.asked, []
    view = replace(view, stage="picture", controls=world.controls.get(view.asked))
    tell(view)

    def see(step: "DenoiseStep", count: int) -> None:
        nonlocal view
        curve.append(float(noise_diff_norm(step.noise_diff)[0]))
        view = replace(view, curve=tuple(curve))
        if step.index + 1 < count and (step.index + 1) % max(1, count // PREVIEWS) == 0:
            view = replace(view, preview=pipe.decode(step.next_latents[:1])[0])
        tell(view)

    with watched(pipe, see):
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
    tell(view)
    return view


def find_neighbours(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    image, record = view.image, view.record
    assert image is not None
    measures = world.measures.of(image, record, view.asked.sampling.seeds(record), view.mask)
    tell(replace(view, measures=measures))
    return replace(view, measures=measures, neighbours=world.measures.neighbours(image, record))


def find_tiles(world: World, pipe: "DenoisingPipeline", view: View, tell: Tell) -> View:
    asked = view.asked
    tiles = layer_tiles(
        pipe,
        view.record.prompt,
        seed=asked.sampling.seeds(view.record)[0],
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
    )
    return replace(view, tiles=tiles)


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


STAGE_CONTROLS = "controls"
STAGES: dict[str, Callable[[World, "DenoisingPipeline", View, Tell], View]] = {
    "training pictures": find_neighbours,
    "tokens": find_tiles,
    STAGE_CONTROLS: find_controls,
}
