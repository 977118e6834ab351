"""The page: what stands where, and which wish of it goes to which part of the explorer."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from memorization.explorer import fragments
from memorization.explorer.answers import Answers, SlotAnswers
from memorization.explorer.asked import LONGEST_PROMPT
from memorization.explorer.sessions import Explorer
from memorization.mitigations.base import MITIGATIONS

SLOTS = 3  # mitigations beside one another
MODEL_QUEUE = "model"  # one at a time: a second user waits
MOST_WAITING = 64
FONT = ["system-ui", "sans-serif"]
MONO = ["ui-monospace", "monospace"]
TITLE = "Memorization explorer"


@dataclass(frozen=True)
class Slot:
    """The parts of one mitigation."""

    number: int
    method: gr.Dropdown
    strength: gr.Slider
    found: gr.HTML
    wish: gr.Number


def theme() -> gr.themes.Base:
    """Fonts of the system: nothing is fetched from anywhere."""
    found = gr.themes.Base(primary_hue="blue", font=FONT, font_mono=MONO)
    return found.set(body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300")


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page of an explorer, which is not open to anybody yet."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
        gr.Markdown(f"# {TITLE}\nOne prompt, and everything that is measured of it.", elem_id="title")
        asked = asked_fields(explorer)
        with gr.Row():
            press = gr.Button("Look", variant="primary", elem_id="look")
            halt = gr.Button("Stop", elem_id="stop")
        wish = gr.Number(None, visible=False)
        status = gr.HTML(fragments.status(), elem_id="status")
        with gr.Row():
            with gr.Column(min_width=320):
                pictures, scores = gr.HTML(), gr.HTML()
            with gr.Column(min_width=320):
                curve, numbers = gr.HTML(), gr.HTML()
        slots = mitigation_fields(explorer)
        with gr.Accordion("Where each token looks", open=True):
            with gr.Row():
                step = gr.Slider(0, 50, 0, step=1, label="step, 0 is the mean over all", elem_id="step")
                layer = gr.Slider(0, 12, 0, step=1, label="layer, 0 is the mean over all", elem_id="layer")
            tiles = gr.HTML()
        with gr.Accordion("Training pictures", open=True):
            neighbours = gr.HTML()
        with gr.Row():
            save = gr.Button("This view as a page", elem_id="save")
            command = gr.Button("This view as a command", elem_id="command")
        saved, commands = gr.HTML(), gr.HTML()

        shown = [status, pictures, curve, scores, numbers, neighbours, *(s.found for s in slots), tiles, step, layer]
        answers = Answers(explorer)
        wished = [wish, saved, commands]
        looked = gr.on(
            [press.click, asked[0].submit], answers.wish, None, wished, queue=False, api_visibility="private"
        )
        looked = looked.then(
            answers.look,
            [*asked, wish],
            shown,
            concurrency_id=MODEL_QUEUE,
            api_name="look",
            show_progress="hidden",
        )
        for slot in slots:
            looked = connect_slot(explorer, slot, looked)
        halt.click(answers.stop, None, status, queue=False, api_visibility="private")
        for slider in (step, layer):
            slider.change(answers.tiles, [step, layer], tiles, show_progress="hidden", api_name=False, queue=False)
        save.click(answers.save, None, saved, api_visibility="private")
        command.click(answers.commands, None, commands, api_visibility="private")
        page.unload(answers.close)
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return page


def asked_fields(explorer: Explorer) -> list[gr.components.Component]:
    """What is asked for, in the order of `Answers.look`."""
    models = explorer.world.models
    prompt = gr.Textbox(
        label="prompt",
        max_lines=4,
        max_length=LONGEST_PROMPT,
        elem_id="prompt",
        autofocus=True,
        placeholder="a caption",
    )
    with gr.Row():
        seed = gr.Number(0, label="seed", precision=0, minimum=0, elem_id="seed", min_width=120)
        model = gr.Dropdown(models.names, value=models.own, label="model", elem_id="model", min_width=160)
    with gr.Accordion("Sampling", open=False), gr.Row():
        steps = gr.Number(50, label="steps", precision=0, minimum=1, elem_id="steps", min_width=120)
        guidance = gr.Textbox("", label="guidance scale, empty: the model's", elem_id="guidance", min_width=120)
        has_loras = bool(models.loras)
        lora = gr.Dropdown(
            ["", *models.loras], value="", label="LoRA", visible=has_loras, elem_id="lora", min_width=160
        )
        scale = gr.Slider(0, 2, 1, step=0.05, label="its scale", visible=has_loras, elem_id="lora_scale", min_width=160)
    return [prompt, seed, steps, guidance, model, lora, scale]


def mitigation_fields(explorer: Explorer) -> list[Slot]:
    """Places for mitigations; the first is open."""
    found = []
    for k in range(SLOTS):
        with gr.Accordion(f"Mitigation {k + 1}", open=k == 0):
            with gr.Row():
                method = gr.Dropdown(
                    [("none", ""), *MITIGATIONS], value="", label="the same seed under", elem_id=f"method{k}"
                )
                strength = gr.Slider(0, 1, 0, label="strength", elem_id=f"strength{k}", visible=False)
            shown, wish = gr.HTML(elem_id=f"mitigated{k}"), gr.Number(None, visible=False)
            found.append(Slot(k, method, strength, shown, wish))
    return found


def connect_slot(explorer: Explorer, slot: Slot, looked: Any) -> Any:
    """Let a slot follow its method, its strength and a new picture; gives the last of these."""
    answers, quick = SlotAnswers(explorer, slot.number), {"queue": False, "api_visibility": "private"}
    inputs, how = [slot.method, slot.strength, slot.wish], {"concurrency_id": MODEL_QUEUE, "show_progress": "minimal"}
    ranged = slot.method.input(answers.range, slot.method, slot.strength, **quick)
    for k, event in enumerate((ranged.then, slot.strength.change, looked.then)):
        name = {"api_name": f"mitigate{slot.number}"} if k == 0 else {"api_visibility": "private"}
        last = event(answers.wish, None, slot.wish, **quick).then(answers.mitigate, inputs, slot.found, **how, **name)
    return last
