"""One self-contained HTML page of any runs: what they found, what it looks like, how they were made."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from memorization.errors import InputError
from memorization.evaluation.statistics import USUAL, BootstrapSettings
from memorization.finished_runs import Run
from memorization.report.attention_section import attention_section
from memorization.report.copies_section import copies_section, has_training
from memorization.report.section import Figure, Section, StoredFigure
from memorization.report.sections import (
    are_labelled,
    can_localise,
    detection_section,
    localisation_section,
    mitigation_section,
    prompts_section,
)
from memorization.similarity.measure import Evaluators

# Parts that take the place of a model's own, or are added to it.
ADDED = {"unet_id": "UNet", "transformer_id": "transformer", "vae_id": "VAE", "lora": "LoRA", "embedding": "embedding"}
OWN_BASE = "own"  # of --base_model_id
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Lead:
    """What a page says before everything else, largest: a half-sentence, the sentences behind it, and warnings."""

    headline: str
    sentences: Sequence[str]
    warnings: Sequence[str] = ()


def build_report(
    runs: Sequence[Run],
    evaluators: Evaluators,
    title: str = "Memorization report",
    dataset: str | None = None,
    bootstrap: BootstrapSettings = USUAL,
    controls: Sequence[Run] = (),
    attention: Sequence[Path] = (),
) -> str:
    """The page as text.

    Args:
        runs: of either script.
        evaluators: what mitigation runs are measured with.
        title: heading of the page.
        dataset: prompt set with training images and true masks; by default that of the runs.
        controls: runs of control captions, by which copies are told.
        attention: PNGs of tools/show_attention.py.

    Raises:
        InputError: if the runs cannot be compared, or what was given cannot be shown.
    """
    sections = collect_sections(runs, evaluators, dataset, bootstrap)
    if controls:
        judged = with_training(runs, controls, dataset)
        sections.append(copies_section(judged, controls, evaluators.descriptor, dataset=dataset, bootstrap=bootstrap))
    if attention:
        sections.append(attention_section(attention, runs))
    facts = {"runs": len(runs), "prompts": count_prompts(runs), "images": count_images(runs)}
    return render_page(title, facts, sections, runs)


def render_page(
    title: str,
    facts: Mapping[str, object],
    sections: Sequence[Section],
    runs: Sequence[Run],
    lead: Lead | None = None,
) -> str:
    """The page as text: facts that stand on top, sections in their order, and how every run was made.

    Args:
        lead: stands above the title and all else; without one the title is the heading.
    """
    return (
        environment()
        .get_template("template.html")
        .render(
            title=title,
            facts=facts,
            lead=lead,
            model=model_text(runs[0].settings),
            sections=[{"section": s, "pictures": [picture(f) for f in s.figures if f.caption]} for s in sections],
            runs=runs,
        )
    )


def environment(*folders: Path) -> jinja2.Environment:
    """What draws HTML, all text escaped: templates out of the folders, and what pages share (head.html)."""
    return jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader([*folders, FOLDER]),
    )


def model_text(settings: Mapping[str, object]) -> str:
    """The model of a run, with what is added to it and what it is compared with."""
    parts = [str(settings.get("model_id"))]
    for name, word in ADDED.items():
        value = settings.get(name)
        parts += [f"{word} {one}" for one in (value if isinstance(value, list) else [value]) if one is not None]
    base = settings.get("base_model_id")
    told = " + ".join(parts)
    return (
        told
        if base is None
        else f"{told}, against {'itself without what is added' if base == OWN_BASE else f'its base {base}'}"
    )


def collect_sections(
    runs: Sequence[Run], evaluators: Evaluators, dataset: str | None, bootstrap: BootstrapSettings
) -> list[Section]:
    """The sections that the runs give anything for."""
    detecting = [run for run in runs if not run.is_mitigation]
    mitigating = [run for run in runs if run.is_mitigation]
    sections = []
    if detecting and are_labelled(detecting):
        sections.append(detection_section(detecting))
    if detecting:
        sections.append(prompts_section(detecting))
    usable = [run for run in detecting if can_localise(run, dataset)]
    if usable:
        sections.append(localisation_section(usable, dataset, bootstrap=bootstrap))
    if mitigating:
        sections.append(mitigation_section(mitigating, evaluators, dataset, bootstrap))
    return sections


def with_training(runs: Sequence[Run], controls: Sequence[Run], dataset: str | None) -> list[Run]:
    """The runs whose images can be compared with training pictures; the controls themselves are none of them.

    Raises:
        InputError: if there are none.
    """
    others = [run for run in runs if run.has_images() and not any(run.path.samefile(c.path) for c in controls)]
    found = [run for run in others if has_training(run, dataset)]
    if not found:
        raise InputError("--controls: none of the runs has images and training pictures; leave it out, or --dataset")
    return found


def picture(figure: Figure | StoredFigure) -> dict[str, object]:
    """A figure on a light and on a dark ground, as data URIs."""
    light, width = figure.render()
    dark, _ = figure.render(dark=True)
    return {"caption": figure.caption, "width": width, "light": data_uri(light), "dark": data_uri(dark)}


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def count_prompts(runs: Sequence[Run]) -> int:
    return len({row["prompt"] for run in runs for row in run.rows})


def count_images(runs: Sequence[Run]) -> int:
    return sum(len(row["seeds"]) for run in runs for row in run.rows)
