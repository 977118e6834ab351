"""The page as people use it, in a headless Chromium, and as programs ask it; skipped where a part is not installed."""

import gc
import shutil
import time
import urllib.error
import urllib.request

import pytest

import detect_mem
import inference_mem
from tools.explorer_screens import browser_page, look, opened, served

pytest.importorskip("gradio")
needs_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")


@pytest.fixture(scope="module")
def explorer(model_folder):
    words = ("--model_id", str(model_folder), "--dataset", "planted_mem_groundtruth", "--num_controls", "3")
    return opened(*words)


@pytest.fixture(scope="module")
def address(explorer):
    with served(explorer) as found:
        yield found.rstrip("/")


def numbers(page, selector):
    """The exact number that stands at a place of the page."""
    return float(page.locator(f"{selector} data").first.get_attribute("value"))


@needs_browser
def test_a_prompt_is_typed_and_the_numbers_are_the_scripts(address, loaded, tmp_path):
    pytest.importorskip("playwright")
    told = []
    with browser_page(1200, 900) as page:
        page.on("request", lambda request: told.append(request.url))
        page.on("pageerror", lambda error: told.append(f"error {error}"))
        look(page, address, "the scarlet engine mug", 5, 3, "gni")
        assert page.locator("#picture img").get_attribute("src").startswith("data:image/png")
        assert page.locator("#tiles figure").count() >= 6
        page.locator("#strength0 input[type=number]").fill("0.2")
        page.keyboard.press("Enter")
        page.locator("#mitigated0 [data-strength='0.2']").wait_for()
        read = {
            "score": numbers(page, "[data-score=text_noise_norm][data-horizon='1'] .score"),
            "p": numbers(page, "[data-score=text_noise_norm][data-horizon='1'] .p"),
            "after": numbers(page, "#mitigated0 [data-measure=magnitude_after]"),
            "pixel": numbers(page, "#mitigated0 [data-measure=pixel]"),
        }
        page.get_by_label("step, 0 is the mean over all").first.fill("2")
        page.get_by_text("step 2 of 3, mean over").wait_for()
        page.locator("#command").click()
        assert "--start 1 --end 2 --gen_seed 5" in page.locator("#commands").inner_text()
        page.get_by_label("prompt").fill("<b id=bad>owl</b>")
        page.get_by_label("prompt").press("Enter")
        page.locator("#status .busy").wait_for()
        page.locator("#status .done").wait_for()
        assert page.locator("#bad").count() == 0 and page.locator("#picture img[alt*='<b id=bad>']").count() == 1
    own = {"start": 1, "end": 2, "gen_seed": 5, "num_inference_steps": 3, "num_images_per_prompt": 1}
    (row,) = detect_mem.run(loaded, dataset="planted_mem_groundtruth", output_dir=tmp_path, **own).rows
    (changed,) = inference_mem.run(loaded, method="gni", strength=0.2, output_dir=tmp_path, **own).rows
    assert read["score"] == row["text_noise_norm"][0][0] and read["p"] in (0.25, 0.5, 0.75, 1)
    assert [read["after"]] == changed["magnitude_after"] and [read["pixel"]] == changed["pixel_similarity"]
    assert not [url for url in told if not url.startswith((address, "data:", "blob:"))]


@needs_browser
def test_a_closed_tab_ends_its_run_and_its_view(explorer, address):
    pytest.importorskip("playwright")
    with browser_page(1200, 900) as page:
        page.goto(address)
        page.get_by_label("prompt").fill("an owl")
        page.get_by_text("Sampling", exact=True).click()
        page.locator("#steps input").fill("900")
        page.locator("#look").click()
        page.locator("#curve .dot").wait_for()
        (name,) = [n for n, session in explorer.sessions.items() if session.view and session.view.stage == "picture"]
    for _ in range(600):
        if name not in explorer.sessions:
            break
        time.sleep(0.2)
    with explorer.world.lock:  # the loop has let go of the model
        assert name not in explorer.sessions


@pytest.mark.parametrize(
    "place", ["file=/etc/passwd", "file=pyproject.toml", "file=../../etc/passwd", "file/etc/passwd"]
)
def test_no_file_is_given_out(address, place):
    for prefix in ("", "gradio_api/"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/{prefix}{place}")
        assert refused.value.code in (403, 404)


def test_everything_comes_from_this_machine(address):
    with urllib.request.urlopen(address) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_program_gets_one_line_for_what_cannot_be_done(address, model_folder):
    from gradio_client import Client

    client = Client(address, verbose=False)
    wishes = {
        "has 10000 characters": ("x" * 10_000, 0, 3, "", str(model_folder)),
        "there is no prompt": (" ", 0, 3, "", str(model_folder)),
    }
    for message, (prompt, seed, steps, guidance, model) in wishes.items():
        told = client.predict(prompt, seed, steps, guidance, model, "", 1, None, api_name="/look")
        assert message in told[0] and told[0].count("<p ") == 1
    with pytest.raises(Exception, match="not in the list of choices"):
        client.predict("owl", 0, 3, "", "/etc/passwd", "", 1, None, api_name="/look")


def test_the_server_keeps_no_component_of_a_look_that_is_over(address, model_folder):
    import gradio
    from gradio_client import Client

    client = Client(address, verbose=False)

    def components_after(*prompts):
        for prompt in prompts:
            client.predict(prompt, 0, 2, "", str(model_folder), "", 1, None, api_name="/look")
        gc.collect()
        return sum(type(found) is gradio.HTML for found in gc.get_objects())

    before = components_after("an owl", " ")
    assert components_after("a boat", " ", "an owl") <= before
