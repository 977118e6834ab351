"""What the page asks of the explorer and what it gets to show: HTML, and one line where something cannot be done."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

PARTS = 11  # of a view, without its mitigations
NOTHING_YET = "there is no picture yet: press Look"


class Answers:
    """One method for each wish; sessions are told apart by the page that asks."""

    def __init__(self, explorer: Explorer, slots: int = 3):
        self.explorer, self.slots = explorer, slots

    def wish(self, request: gr.Request) -> int:
        return self.explorer.wish(name_of(request))

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
        """The parts of a view as they come about; those that did not change are not sent again."""
        name, models = name_of(request), self.explorer.world.models
        faults: list[str] = []
        with told_in(faults):
            stop = self.explorer.claim(name, LOOK, wish)
            asked = make_asked(prompt, seed, steps, guidance, models.choose(model, lora, lora_scale))
            yield [fragments.render("status", "waiting for the model ...", "busy"), *self.blank()]
            before: View | None = None
            for view in self.explorer.look(name, asked, stop):
                yield [*changed_parts(before, view), *[gr.skip()] * self.slots]
                before = view
        if faults:
            yield [faults[0], *[gr.skip()] * (PARTS - 1 + self.slots)]

    def blank(self) -> list[Any]:
        """All parts but the status, of a picture that is not there yet."""
        return ["", "", "", "", "", "", gr.skip(), gr.skip(), "", "", *[""] * self.slots]

    def tiles(self, step: float, layer: float, request: gr.Request) -> str:
        view = self.explorer.session(name_of(request)).view
        return "" if view is None else fragments.tiles(view, int(step), int(layer))

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


def changed_parts(before: View | None, view: View) -> list[Any]:
    """The parts of a view in the order of the page; `gr.skip()` for what is as it was."""

    def part(show: Callable[[View], Any], *names: str) -> Any:
        is_same = before is not None and all(getattr(before, n) is getattr(view, n) for n in names)
        return gr.skip() if is_same else show(view)

    has_new_tiles = bool(view.tiles) and (before is None or before.tiles is not view.tiles)
    step, layer = gr.skip(), gr.skip()
    if has_new_tiles and view.tiles is not None:
        step = gr.update(maximum=len(next(iter(view.tiles.values())).steps), value=0)
        layer = gr.update(maximum=len(view.tiles) - 1, value=0)
    return [
        fragments.status(view),
        part(fragments.pictures, "preview", "image", "mask"),
        part(fragments.curve, "curve", "controls"),
        part(fragments.scores, "curve", "scores", "controls"),
        part(fragments.measures, "measures"),
        part(fragments.neighbours, "neighbours"),
        part(fragments.tiles, "tiles"),
        step,
        layer,
        gr.skip(),
        gr.skip(),
    ]
