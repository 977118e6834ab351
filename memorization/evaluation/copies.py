"""Is an image a copy? By the rank of its training picture, and against images that are no copies; 0.5 stands beside.

Cosines of a copy descriptor to the nearest of N training pictures grow with N and with how alike pictures of a kind
are, so three things are compared. The background: every training picture to its nearest other one. The controls:
generations of control captions, or of the model before it was trained on the pictures, to their nearest. And every
generation: to the nearest of its own prompt's pictures and to the nearest of all. A generation is called a copy by the
conformal p-value of its nearest similarity among the controls, at a false discovery rate over all generations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from memorization.bundled import same_setting
from memorization.data.pictures import check_pictures
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError, input_errors
from memorization.evaluation.copied_regions import region_similarity
from memorization.evaluation.copy_summary import spread_results, summarize_copies
from memorization.evaluation.decisions import too_few_controls
from memorization.evaluation.judged_images import ALL, Away, Line, compare, decide, decide_prompts, without_nan
from memorization.evaluation.mitigation import load_references, load_training
from memorization.evaluation.plain_colours import without_plain_colours
from memorization.evaluation.statistics import USUAL, BootstrapSettings, Result
from memorization.finished_runs import Run, differing_setting
from memorization.identity import SCHEDULER, pair_text
from memorization.similarity.descriptions import Described, describe_background, describe_run, describe_training
from memorization.similarity.descriptors import CopyDescriptor
from memorization.similarity.nearest import COSINE, NORMALISED, SIMILARITIES, TrainingPictures, to_background

SAMPLING = ("guidance_scale", "num_inference_steps", "image_length", SCHEDULER)  # what controls share with the runs


@dataclass(frozen=True)
class CopySettings:
    """How copies are judged.

    Attributes:
        similarity: `cosine`, or `score_normalised`: less the mean over the nearest of the background set.
        background: folder of pictures, or finished run, for `score_normalised`: neither trained on nor compared.
        fdr: share of false ones that is allowed among the images called copies, or among the prompts that give one.
        by_prompt: whether prompts are decided in place of images; see `decide_prompts`.
    """

    similarity: str = COSINE
    background: Path | None = None
    fdr: float = 0.05
    by_prompt: bool = False

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise InputError(f"--similarity {self.similarity} is none of {', '.join(SIMILARITIES)}")
        if (self.similarity == NORMALISED) != (self.background is not None):
            raise InputError(f"--similarity {NORMALISED} and --background, a folder of pictures or a run, go together")
        if not 0 < self.fdr < 1:
            raise InputError(f"--fdr {self.fdr} is not between 0 and 1")


@dataclass(frozen=True)
class Copies:
    """What was found.

    Attributes:
        results: one per run and kind of prompt, all kinds together last.
        spread: how near the nearest lie: of different training pictures, of controls and of each run.
        lines: one per image of the runs.
        training, controls: numbers of training pictures and of control prompts.
        settings: how it was judged.
        control_lines: one per image of the controls.
    """

    results: list[Result]
    spread: list[Result]
    lines: list[Line]
    training: int
    controls: int
    settings: CopySettings
    control_lines: Sequence[Line] = ()

    def too_few_controls(self) -> dict[str, str]:
        """Why little or nothing can be found with so few controls, by kind of prompt; only kinds that are told of."""
        if not self.settings.by_prompt:
            told = too_few_controls(self.controls, self.settings.fdr, len(self.lines), "images")
            return {} if told is None else {ALL: told}
        found = {}
        for kind in dict.fromkeys(line["kind"] for line in self.lines):
            count = len({line["prompt"] for line in self.lines if line["kind"] == kind})
            what = "prompts" if kind == ALL else f"prompts ({kind})"
            if (told := too_few_controls(self.controls, self.settings.fdr, count, what)) is not None:
                found[kind] = told
        return found


@dataclass(frozen=True)
class Compared:
    """What generations are compared with, each described once, however many runs are judged by it.

    Attributes:
        records: with training pictures, by prompt index.
        training: those pictures.
        runs: the controls, without their prompts that are labelled memorized.
        controls: their images.
        pictures: that belong to the control captions and were not trained on; None without any.
        descriptor: that all of them are described by.
    """

    records: Mapping[int, PromptRecord]
    training: TrainingPictures
    runs: Sequence[Run]
    controls: Sequence[Described]
    pictures: TrainingPictures | None
    descriptor: CopyDescriptor


def evaluate_copies(
    runs: Sequence[Run],
    controls: Sequence[Run],
    descriptor: CopyDescriptor | None,
    settings: CopySettings | None = None,
    dataset: str | None = None,
    bootstrap: BootstrapSettings = USUAL,
    control_records: Mapping[int, PromptRecord] = MappingProxyType({}),
) -> Copies:
    """Judge every image of some runs of one data set, all of them together.

    Args:
        runs: of either script, with images.
        controls: of control captions or of the model before training; prompts labelled memorized are left out.
        dataset: with the training pictures; that of the runs by default.
        control_records: pictures that belong to the control captions and were not trained on, by the controls' indices.

    Raises:
        InputError: if there is no descriptor, no training pictures or no controls, runs were made in another way, or
            images are missing.
    """
    settings = settings or CopySettings()
    if descriptor is None:
        raise InputError("copies are looked for by a copy descriptor: give one by --sscd")
    refuse_other_sampling([*runs, *controls])
    refuse_compared_background(settings.background, [*runs, *controls])
    controls = [without_memorized(run) for run in controls]
    records = training_of(runs, dataset)
    training = describe_training(records, descriptor)
    return judge_copies(
        runs, describe_compared(records, training, controls, control_records, descriptor), settings, bootstrap
    )


def describe_compared(
    records: Mapping[int, PromptRecord],
    training: TrainingPictures,
    controls: Sequence[Run],
    control_records: Mapping[int, PromptRecord],
    descriptor: CopyDescriptor,
) -> Compared:
    """
    Args:
        records, training: the training pictures, and their descriptors as they were made before.
        controls, control_records: as of `evaluate_copies`.

    Raises:
        InputError: if controls have memorized prompts alone, or images are missing.
    """
    controls = [without_plain_colours([without_memorized(run)])[0] for run in controls]
    described = [part for run in controls for part in describe_run(run, descriptor)]
    pictures = describe_training(control_records, descriptor) if control_records else None
    return Compared(records, training, controls, described, pictures, descriptor)


def judge_copies(
    runs: Sequence[Run], compared: Compared, settings: CopySettings, bootstrap: BootstrapSettings = USUAL
) -> Copies:
    """Judge every image of some runs by what was described already; see `evaluate_copies`."""
    refuse_other_sampling([*runs, *compared.runs])
    training, descriptor = compared.training, compared.descriptor
    away = no_background if settings.background is None else from_background(settings.background, descriptor, training)
    own = [part for run in runs for part in describe_run(without_plain_colours([run])[0], descriptor)]
    others = compared.controls
    lines, control_lines = compare(own, training, away), compare(others, training, away, True, compared.pictures)
    regions = region_similarity(own, others, compared.records, descriptor)
    for some, values in zip((lines, control_lines), regions, strict=True):
        for line, value in zip(some, values.tolist(), strict=True):
            line["region"] = value
    (decide_prompts if settings.by_prompt else decide)(lines, control_lines, settings.fdr)
    cosines = training.to_nearest_other()
    between = without_nan(cosines - away(training.descriptors)), without_nan(cosines)
    results = summarize_copies(lines, control_lines, between[0], bootstrap)
    spread = spread_results(lines, control_lines, between)
    count = sum(line["first"] for line in control_lines)
    return Copies(results, spread, lines, len(training.owners), count, settings, control_lines)


# What is compared


def without_memorized(run: Run) -> Run:
    """A control run without its prompts that are labelled memorized.

    Raises:
        InputError: if none is left.
    """
    rows = tuple(row for row in run.rows if row.get("is_memorized") is not True)
    if not rows:
        raise InputError(f"{run.path} has memorized prompts alone; give a run of control captions by --controls")
    return replace(run, rows=rows)


def refuse_other_sampling(runs: Sequence[Run]) -> None:
    """
    Raises:
        InputError: if runs were sampled in another way; the model may be another, as before training.
    """
    for run in runs[1:]:
        name = differing_setting(runs[0].settings, run.settings, SAMPLING)
        if name is not None:
            values = " and ".join(pair_text(name, runs[0].settings, run.settings))
            raise InputError(f"{runs[0].path} and {run.path} cannot be compared: {name} is {values}")


def refuse_compared_background(background: Path | None, runs: Sequence[Run]) -> None:
    """
    Raises:
        InputError: if the background set is a run that is compared: every image would be the nearest of itself.
    """
    if background is not None and background.is_file() and any(background.samefile(run.path) for run in runs):
        raise InputError(f"--background {background} is compared itself; give pictures of the same kind apart from it")


def training_of(runs: Sequence[Run], dataset: str | None) -> dict[int, PromptRecord]:
    """Records with training pictures of the data set that all runs share, looked at so that a fault shows now.

    Raises:
        InputError: if the runs are of several data sets, it has no training pictures of theirs or of one prompt alone.
    """
    names = [dataset or str(run.settings["dataset"]) for run in runs]
    other = next((name for name in names if not same_setting(name, names[0])), None)
    if other is not None:
        raise InputError(f"the runs are of {names[0]} and {other}; give what has the training pictures by --dataset")
    for run in runs:
        load_references(run, dataset)
    records = load_training(runs[0], dataset)
    if len(records) < 2:
        raise InputError(f"{names[0]} has training pictures of one prompt; rank and background take two or more")
    check_pictures(records.values())
    return records


def no_background(descriptors: np.ndarray) -> np.ndarray:
    """What is taken away of cosines: nothing, (images,)."""
    return np.zeros(len(descriptors))


def from_background(source: Path, descriptor: CopyDescriptor, training: TrainingPictures) -> Away:
    """What score normalisation takes away of the cosines of images: a function of their descriptors.

    Raises:
        InputError: if the background set has too few pictures, or training pictures.
    """
    background = describe_background(source, descriptor, training)
    with input_errors():
        to_background(background[:1], background)
    return partial(to_background, background=background)
