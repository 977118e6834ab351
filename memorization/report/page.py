"""One self-contained HTML page of any runs: what they found, what it looks like, how they were made."""

from pathlib import Path

import jinja2

from memorization.report.sections import detection_sections, localisation_sections, mitigation_sections

TEMPLATE = Path(__file__).with_name("template.html")


def build_report(runs, evaluators, args):
    """The page as text.

    Args:
        runs: list of `Run`, of either script.
        evaluators: `Evaluators` for mitigation runs.
        args: of `eval_mem.py report`: title, dataset, bootstrap, bootstrap_seed.
    """
    detecting = [run for run in runs if not run.is_mitigation]
    mitigating = [run for run in runs if run.is_mitigation]
    sections = []
    if detecting:
        sections += detection_sections(detecting, args)
        sections += localisation_sections(detecting, args)
    if mitigating:
        sections += mitigation_sections(mitigating, evaluators, args)
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    facts = {"runs": len(runs), "prompts": count_prompts(runs), "images": count_images(runs)}
    return page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=args.title, facts=facts, model=runs[0].settings.get("model_id"), sections=sections, runs=runs
    )


def count_prompts(runs):
    return len({row["prompt"] for run in runs for row in run.rows})


def count_images(runs):
    return sum(len(row["seeds"]) for run in runs for row in run.rows)
