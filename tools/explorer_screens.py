"""Screenshots of the explorer for docs/explorer.md: wide and narrow, light and dark, of one view of the bundled model.

    python -m tools.explorer_screens
    python -m tools.explorer_screens --prompt "a large red fish" --output screens --num_inference_steps 10

Needs a Chromium and the packages gradio and playwright (`pip install -e ".[explorer]" playwright`); the page is opened
on this machine alone.
"""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import explore
from memorization.bundled import ROOT
from memorization.errors import InputError, exit_on_input_error
from memorization.explorer.sessions import Explorer
from memorization.explorer.world import World
from memorization.files.whole import make_folder
from memorization.runs.arguments import HelpFormatter, natural_int, positive_int

SIZES = {"wide": (1200, 1500), "phone": (390, 1400)}
SCHEMES = ("light", "dark")
PATIENCE = 1_800_000  # milliseconds: a slow machine takes its time
QUALITY = 65  # of JPEG


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--output", type=Path, default=ROOT / "docs" / "explorer", help="folder of the screenshots")
    add("--prompt", default="the scarlet engine mug", help="what is looked at")
    add("--method", default="pe", help="mitigation beside it")
    add("--seed", type=natural_int, default=0, help="of the picture")
    add("--num_inference_steps", type=positive_int, default=50, help="DDIM steps")
    add("--num_controls", type=natural_int, default=39, help="ordinary captions of the band")
    return parser


def opened(*words: str) -> Explorer:
    """The explorer of a command line."""
    return Explorer(World.from_args(explore.make_parser().parse_args(words)))


@contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """An explorer's page, by its address, until the block ends."""
    page = explore.import_server()(explorer, explore.THIS_MACHINE, None)
    try:
        yield page.local_url
    finally:
        page.close(verbose=False)


@contextmanager
def browser_page(width: int, height: int):
    """A page of a headless Chromium.

    Raises:
        InputError: if there is no playwright or no Chromium.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError as error:
        raise InputError("screenshots need the package playwright: pip install playwright") from error
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        raise InputError("screenshots need a Chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def look(page, address: str, prompt: str, seed: int, steps: int, method: str = "") -> None:
    """Type a prompt, choose a mitigation, press Look and wait until everything is there."""
    page.goto(address)
    page.get_by_label("prompt").fill(prompt)
    page.locator("#seed input").fill(str(seed))
    page.get_by_text("Sampling", exact=True).click()
    page.locator("#steps input").fill(str(steps))
    page.get_by_text("Sampling", exact=True).click()
    page.locator("#look").click()
    page.locator("#status .busy").wait_for()
    page.locator("#status .done, #status .fault").wait_for()
    if method:
        page.locator("#method0 input").click()
        page.get_by_role("option", name=method, exact=True).click()
        page.locator(f"#mitigated0 [data-method={method}]").wait_for()


def main(argv: Sequence[str] | None = None) -> None:
    args = make_parser().parse_args(argv)
    with exit_on_input_error():
        make_folder(args.output, "--output")
        with served(opened("--num_controls", str(args.num_controls))) as address, browser_page(*SIZES["wide"]) as page:
            look(page, address, args.prompt, args.seed, args.num_inference_steps, args.method)
            page.locator("#command").click()
            page.locator("#commands").wait_for()
            for size, (width, height) in SIZES.items():
                for scheme in SCHEMES:
                    page.set_viewport_size({"width": width, "height": height})
                    page.emulate_media(color_scheme=scheme)
                    page.evaluate("scheme => document.body.classList.toggle('dark', scheme === 'dark')", scheme)
                    page.evaluate("() => { document.activeElement.blur(); window.scrollTo(0, 0) }")
                    page.wait_for_timeout(800)
                    path = args.output / f"{size}_{scheme}.jpg"
                    page.screenshot(path=path, type="jpeg", quality=QUALITY, full_page=True)
                    print(f"{path}: {path.stat().st_size // 1024} KiB", file=sys.stdout)


if __name__ == "__main__":
    main()
