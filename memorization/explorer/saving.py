"""A view as one page that needs nothing else, and the link that saves it."""

import base64
from collections.abc import Sequence

from memorization.explorer import fragments
from memorization.explorer.commands import command_lines, view_name
from memorization.explorer.view import View
from memorization.explorer.world import World


def page_of(world: World, view: View) -> str:
    """The page as text: every piece that the view has."""
    asked = view.asked
    told = f"model {asked.chosen.model}, seed {asked.seed}, {asked.num_inference_steps} steps"
    told += "" if asked.chosen.lora is None else f", LoRA {asked.chosen.lora} at {asked.chosen.lora_scale:g}"
    told += "" if asked.guidance_scale is None else f", guidance {asked.guidance_scale:g}"
    parts: Sequence[tuple[str, str]] = [
        ("Picture and bright ending", fragments.pictures(view)),
        ("D per step", fragments.curve(view) + fragments.scores(view)),
        ("Numbers", fragments.measures(view)),
        *((f"Under {view.mitigated[k].method}", fragments.mitigated(view, k)) for k in sorted(view.mitigated)),
        ("Where each token looks", fragments.tiles(view)),
        ("Training pictures", fragments.neighbours(view)),
        ("The same again", fragments.render("commands", command_lines(world, view))),
    ]
    page = fragments.environment().get_template("page.html")
    shown = [(heading, fragment) for heading, fragment in parts if fragment]
    return page.render(title=f"“{view.record.prompt}”", told=told, parts=shown, style=fragments.STYLE)


def save_link(world: World, view: View) -> str:
    """A link that saves the page, which it holds itself: nothing is written on the server."""
    page = page_of(world, view).encode()
    href = "data:text/html;charset=utf-8;base64," + base64.b64encode(page).decode()
    return fragments.render("saved", f"{view_name(world, view)}.html", href, f"{len(page) / 1e6:.1f} MB")
