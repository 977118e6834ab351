"""Finished runs evaluated from a program: the same sections that eval_mem.py writes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from memorization.errors import InputError
from memorization.evaluation.controls import controls_of_run
from memorization.evaluation.copies import CopySettings
from memorization.evaluation.decisions import Decisions
from memorization.evaluation.statistics import BootstrapSettings
from memorization.finished_runs import Run, check_comparable, masks_for, read_run
from memorization.registry import nearest
from memorization.report.copies_section import copies_section
from memorization.report.section import Section
from memorization.report.sections import (
    audit_section,
    damage_section,
    decisions_section,
    detection_section,
    localisation_section,
    mitigation_section,
)
from memorization.scores import HORIZONS, key_of
from memorization.similarity.measure import EvaluatorSettings, open_evaluators
from memorization.similarity.nearest import COSINE

Runs = Run | str | Path | Sequence[Run | str | Path]


def evaluate(topic: str, runs: Runs, **options: Any) -> Section:
    """Evaluate finished runs as `eval_mem.py TOPIC` does; no diffusion model is loaded.

        import memorization

        section = memorization.evaluate("detection", "det_outputs/A_ours.jsonl", nonmem="det_outputs/B_ours.jsonl")
        print(section.markdown())
        section.save("eval_outputs/detection")

    Args:
        topic: "detection", "decisions", "localisation", "mitigation", "damage", "audit" or "copies".
        runs: a run, or several, as `read_run` gives them or as paths of result files. For "detection" those of
            memorized prompts, or without `nonmem` of labelled prompts of both kinds; for "audit" those from the
            prompts themselves.
        options: by name, each as on the command line:
            localisation, mitigation, damage and copies: replicates=1000, seed=0 of the resampling;
            detection: nonmem, num_images=(None,), horizons=(1, 10, None), where None is all;
            decisions: controls, fdr=0.05, score="D", horizon=1, where None is all;
            localisation: dataset with true masks, or masks, a folder of INDEX.png;
            mitigation: dataset with training images, masks, a file for LS, lpips=False; quality_reference, a run or
                folder of ordinary images, quality_model and quality_model_pretrain for CMMD, fid=False;
            audit: audited, control, dataset;
            copies: controls, dataset, fdr=0.05, similarity="cosine" or "score_normalised", background;
            mitigation, damage, audit and copies: sscd, a path, sscd_preprocessing, device="cpu"; all but copies:
            reference_model for CLIP, reference_model_pretrain.

    Raises:
        InputError: for an unknown topic, and where runs cannot be read, compared or measured.
        TypeError: for an option that the topic does not have.
    """
    if topic not in TOPICS:
        raise InputError(f"there is no evaluation called {topic!r}; {nearest(topic, list(TOPICS))}")
    return TOPICS[topic](opened(runs), **options)


def opened(runs: Runs) -> list[Run]:
    """Runs as they are given, those that are paths read."""
    if isinstance(runs, Run | str | Path):
        runs = [runs]
    return [run if isinstance(run, Run) else read_run(run) for run in runs]


def detection(
    runs: list[Run],
    nonmem: Runs = (),
    num_images: Sequence[int | None] = (None,),
    horizons: Sequence[int | None] = HORIZONS,
) -> Section:
    return detection_section(runs, opened(nonmem), num_images, horizons)


def decisions(
    runs: list[Run], controls: Run | str | Path, fdr: float = 0.05, score: str = "D", horizon: int | None = 1
) -> Section:
    (opened_controls,) = opened(controls)
    return decisions_section(runs, Decisions(controls_of_run(opened_controls, key_of(score), horizon), fdr))


def localisation(
    runs: list[Run],
    dataset: str | None = None,
    masks: str | Path | None = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Section:
    return localisation_section(runs, dataset, masks, BootstrapSettings(replicates, seed))


def mitigation(
    runs: list[Run],
    dataset: str | None = None,
    masks: str | Path | None = None,
    replicates: int = 1000,
    seed: int = 0,
    **measuring: Any,
) -> Section:
    check_comparable(runs)
    evaluators = open_evaluators(
        EvaluatorSettings(**measuring), masks_for(runs, None if masks is None else Path(masks))
    )
    return mitigation_section(runs, evaluators, dataset, BootstrapSettings(replicates, seed))


def damage(runs: list[Run], replicates: int = 1000, seed: int = 0, **measuring: Any) -> Section:
    evaluators = open_evaluators(EvaluatorSettings(**measuring))
    return damage_section(runs, evaluators, BootstrapSettings(replicates, seed))


def audit(
    runs: list[Run],
    audited: Runs,
    control: Runs = (),
    dataset: str | None = None,
    **measuring: Any,
) -> Section:
    evaluators = open_evaluators(EvaluatorSettings(**measuring))
    return audit_section(runs, opened(audited), opened(control), evaluators, dataset)


def copies(
    runs: list[Run],
    controls: Runs,
    dataset: str | None = None,
    fdr: float = 0.05,
    similarity: str = COSINE,
    background: str | Path | None = None,
    replicates: int = 1000,
    seed: int = 0,
    **measuring: Any,
) -> Section:
    settings = CopySettings(similarity, None if background is None else Path(background), fdr)
    descriptor = EvaluatorSettings(**measuring).open_descriptor()
    bootstrap = BootstrapSettings(replicates, seed)
    return copies_section(runs, opened(controls), descriptor, settings, dataset, bootstrap)


TOPICS: dict[str, Callable[..., Section]] = {
    "detection": detection,
    "decisions": decisions,
    "localisation": localisation,
    "mitigation": mitigation,
    "damage": damage,
    "audit": audit,
    "copies": copies,
}
