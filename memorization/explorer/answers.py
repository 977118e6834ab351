"""What the page asks of the explorer and what it gets to show: HTML, and one line where something cannot be done."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gradio as gr

from memorization.errors import InputError, first_line
from memorization.explorer import fragments
from memorization.explorer.asked import make_asked
from memorization.explorer.commands import command_lines
from memorization.explorer.mitigating import strength_range
from memorization.explorer.saving import save_link
from memorization.explorer.sessions import LOOK, Explorer
from memorization.explorer.stopping import Stopped
from memorization.explorer.view import View
from memorization.mitigations.base import MITIGATIONS

NOTHING_YET = "there is no picture yet: press Look"


class Drawn:
    """The parts of a view in the order of the page, but the status: drawn again where it has changed.

    A part that stays as it is is given again as the text that it was, and Gradio sends it no second time. It is never
    `gr.skip()`: for that Gradio makes the component anew, and after a text keeps it, text and all, as long as it runs.
    """

    def __init__(self, slots: int):
        slot_parts = [(partial(fragments.mitigated, slot=k), ("mitigated",)) for k in range(slots)]
        self.drawings: list[tuple[Callable[[View], str], tuple[str, ...]]] = [
            (fragments.pictures, ("preview", "image", "mask")),
            (fragments.curve, ("curve", "controls")),
            (fragments.scores, ("curve", "scores", "controls")),
            (fragments.measures, ("measures",)),
            (fragments.neighbours, ("neighbours",)),
            *slot_parts,
        ]
        self.view: View | None = None
        self.place = (0, 0)
        self.texts = [""] * len(self.drawings)
        self.tiles = ""

    def blank(self) -> list[Any]:
        return [*self.texts, self.tiles, gr.skip(), gr.skip()]

    def parts(self, view: View, place: tuple[int, int]) -> list[Any]:
        """
        Args:
            place: of the tiles that are looked at, step and layer.
        """
        before, self.view = self.view, view
        for k, (draw, names) in enumerate(self.drawings):
            if before is None or any(getattr(before, n) is not getattr(view, n) for n in names):
                self.texts[k] = draw(view)
        has_new = bool(view.tiles) and (before is None or before.tiles is not view.tiles)
        if has_new or place != self.place:
            self.place, self.tiles = place, fragments.tiles(view, *place)
        return [*self.texts, self.tiles, *(self.sliders(view) if has_new else (gr.skip(), gr.skip()))]

    def sliders(self, view: View) -> list[Any]:
        """The range of steps and layers that there are tiles of."""
        assert view.tiles
        mosts = len(next(iter(view.tiles.values())).steps), len(view.tiles) - 1
        return [gr.update(maximum=most, value=min(at, most)) for most, at in zip(mosts, self.place, strict=True)]


class Answers:
    """One method for each wish; sessions are told apart by the page that asks."""

    def __init__(self, explorer: Explorer, slots: int = 3):
        self.explorer, self.slots = explorer, slots

    def wish(self, request: gr.Request) -> tuple[int, str, str]:
        """The number of a new wish; what was saved of the older one goes."""
        return self.explorer.wish(name_of(request)), "", ""

    def stop(self, request: gr.Request) -> str:
        self.explorer.stop(name_of(request))
        return fragments.render("status", "Stopped.", "done")

    def close(self, request: gr.Request) -> None:
        self.explorer.close(name_of(request))

    def look(
        self,
        prompt: str,
        seed: float,
        steps: float,
        guidance: float | None,
        model: str,
        lora: str | None,
        lora_scale: float,
        wish: float | None,
        request: gr.Request,
    ) -> Iterator[list[Any]]:
        """The parts of a view as they come about, and in the end, where something cannot be done, why."""
        name, models = name_of(request), self.explorer.world.models
        session, drawn = self.explorer.session(name), Drawn(self.slots)
        faults: list[str] = []
        with told_in(faults):
            stop = self.explorer.claim(name, LOOK, wish)
            asked = make_asked(prompt, seed, steps, guidance, models.choose(model, lora, lora_scale))
            yield [fragments.render("status", "waiting for the model ...", "busy"), *drawn.blank()]
            for view in self.explorer.look(name, asked, stop):
                yield [fragments.status(view), *drawn.parts(view, session.place)]
        if faults:
            known = drawn.blank() if session.view is None else drawn.parts(session.view, session.place)
            yield [faults[0], *known]

    def tiles(self, step: float, layer: float, request: gr.Request) -> str:
        session = self.explorer.session(name_of(request))
        session.place = int(step), int(layer)
        return "" if session.view is None else fragments.tiles(session.view, *session.place)

    def save(self, request: gr.Request) -> str:
        return self.finished(request, lambda view: save_link(self.explorer.world, view))

    def commands(self, request: gr.Request) -> str:
        return self.finished(
            request, lambda view: fragments.render("commands", command_lines(self.explorer.world, view))
        )

    def finished(self, request: gr.Request, show: Callable[[View], str]) -> str:
        view = self.explorer.session(name_of(request)).view
        if view is None or view.image is None:
            return fragments.status(fault=NOTHING_YET)
        return show(view)


class SlotAnswers:
    """The same for one mitigation of the view."""

    def __init__(self, explorer: Explorer, slot: int):
        self.explorer, self.slot = explorer, slot

    def wish(self, request: gr.Request) -> int:
        return self.explorer.wish(name_of(request), self.slot)

    def mitigate(self, method: str, strength: float, wish: float | None, request: gr.Request) -> Iterator[str]:
        """The picture under the mitigation, before and after, with its numbers."""
        name = name_of(request)
        faults: list[str] = []
        with told_in(faults):
            stop = self.explorer.claim(name, self.slot, wish)
            for view in self.explorer.mitigate(name, self.slot, method, strength, stop):
                yield fragments.mitigated(view, self.slot)
        if faults:
            yield faults[0]

    def range(self, method: str) -> Any:
        """The slider of a method: its range, and what it is."""
        record = MITIGATIONS.get(method)
        if record is None:
            return gr.update(visible=False)
        largest, step, usual = strength_range(record, self.explorer.world.models.is_own_bundled)
        told = record.knob if "0 is off" in record.knob else f"{record.knob}; 0 is off, {record.stronger} hides more"
        return gr.update(visible=True, minimum=0, maximum=largest, step=step, value=usual, info=told)


def name_of(request: gr.Request) -> str:
    return str(request.session_hash)


@contextmanager
def told_in(faults: list[str]) -> Iterator[None]:
    """Turn what goes wrong into one line of the page; what is nobody's input into one of the terminal as well."""
    try:
        yield
    except Stopped:
        faults.append(fragments.render("status", "Stopped.", "done"))
    except InputError as error:
        faults.append(fragments.status(fault=f"error: {error}"))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        faults.append(fragments.status(fault=f"error: {type(error).__name__}: {first_line(error)}"))
