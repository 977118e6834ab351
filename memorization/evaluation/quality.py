"""Are the images still images? Runs beside ordinary generations: CMMD, saturation, contrast, spectrum.

Similarity to the training image and to the prompt do not see ruined pictures: a saturated blob is no copy of
anything. The reference is a run of ordinary prompts, or a folder of pictures; without one it is plain generation of
the same prompts, whose images are the copies that a mitigation is there to change, so that any change counts against
it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from memorization.errors import InputError
from memorization.evaluation.statistics import USUAL, BootstrapSettings, Measure, Result, interval_text, mean_interval
from memorization.finished_runs import PLAIN, Run, differing_setting, method_of, read_run
from memorization.similarity.appearance import RARE, Appearance, Ordinary, look_at, pictures_of_folder, pictures_of_run
from memorization.similarity.cmmd import KernelSums, cmmd, cmmd_released, jackknife_interval, kernel_sums, leave_one_out
from memorization.similarity.measure import Evaluators
from memorization.tables import Table

PLAIN_NUMBERS = {
    "saturated": "saturated values",
    "contrast": "contrast",
    "spectrum": "spectrum off ordinary, dB",
    "outside": "unlike ordinary",
}
CMMD, CMMD_CHANGE, RELEASED = "cmmd", "cmmd_change", "cmmd_released"
INCEPTION = {"fid": "FID", "kid": "KID"}
FEW_IMAGES = 300  # below, the interval of CMMD is wide
OWN = (
    "The reference is plain generation of the same prompts, whose images are the copies: what removes them differs for "
    "that alone. Give ordinary prompts by --quality_reference."
)
FITTED = "Pictures of the reference are cropped at the centre and resized to the generations' size."
RUINED = 0.5  # share of images that are unlike ordinary ones from which a run is called ruined

ALL = "all"  # prompts of every kind together

PerPrompt = Sequence[dict[str, Any]]  # one run of `similarity.measure.measure_run`


@dataclass(frozen=True)
class Reference:
    """Where ordinary images come from.

    Attributes:
        source: a run, or a folder of pictures.
        is_own: whether it is one of the runs that are measured.
        note: what is to be said of it beside the numbers.
    """

    source: Run | Path
    is_own: bool
    note: str

    @property
    def name(self) -> str:
        return self.source.key if isinstance(self.source, Run) else str(self.source)


@dataclass(frozen=True)
class Quality:
    """What images look like.

    Attributes:
        reference, ordinary: what they are measured against.
        appearances: every run's, by its key.
        inception: `fid` and `kid` of every run, by its key; empty where they are not wanted.
        model: what CMMD's features are of.
    """

    reference: Reference
    ordinary: Ordinary
    appearances: Mapping[str, Appearance]
    inception: Mapping[str, Mapping[str, float]]
    model: str


def measure_quality(
    runs: Sequence[Run], measured: Mapping[str, PerPrompt], evaluators: Evaluators, reference: Reference
) -> Quality:
    """Look at all images of runs of the same prompts, and put their plain numbers into the measures of each prompt.

    Args:
        measured: per-prompt measures by run key; a list per plain number is added, one number per image.
        reference: of `find_reference`.

    Raises:
        InputError: if images are missing, or too small.
    """
    clip, source = evaluators.quality_clip or evaluators.clip, reference.source
    sets = {run.key: pictures_of_run(with_prompts(run, measured[run.key])) for run in runs}
    if isinstance(source, Run):
        pictures = sets[source.key] if reference.is_own else pictures_of_run(source)
    else:
        pictures = pictures_of_folder(source, size_of(runs[0]))
    ordinary, appearances = Ordinary(look_at(pictures, clip)), {}
    for key, some in sets.items():
        appearances[key] = ordinary.appearance if some is pictures else look_at(some, clip)
        add_plain_numbers(measured[key], appearances[key], ordinary)
    inception = {} if evaluators.inception is None else evaluators.inception(sets, pictures)
    return Quality(reference, ordinary, appearances, inception, "" if clip is None else clip.description)


def with_prompts(run: Run, measured: PerPrompt) -> Run:
    """A run with the prompts that were measured."""
    indexes = {prompt["index"] for prompt in measured}
    return replace(run, rows=tuple(row for row in run.rows if row["index"] in indexes))


def find_reference(runs: Sequence[Run], given: Path | None) -> Reference | None:
    """The run or folder that is given, else plain generation among the runs; None without either.

    Raises:
        InputError: if what is given is neither, or a run of a mitigation.
    """
    if given is None:
        run = next((run for run in runs if method_of(run) == PLAIN), None)
        return None if run is None else Reference(run, True, OWN)
    if given.is_dir():
        return Reference(given, False, FITTED)
    if not given.is_file():
        raise InputError(f"--quality_reference {given} does not exist; give a result file or a folder of pictures")
    run = read_run(given)
    if method_of(run) != PLAIN:
        raise InputError(
            f"--quality_reference {given} is of {method_of(run)}; give plain generation of ordinary prompts"
        )
    if any(run.key == other.key and run.path.samefile(other.path) for other in runs):
        return Reference(run, True, OWN)
    name = differing_setting(run.settings, runs[0].settings)
    if name is None:
        return Reference(run, False, "")
    told = f"The reference is of another {name}: {run.settings.get(name)}, not {runs[0].settings.get(name)}."
    return Reference(run, False, told)


def size_of(run: Run) -> tuple[int, int]:
    """Height and width of a run's images."""
    height, width = run.image(run.rows[0], 0).shape[:2]
    return height, width


def add_plain_numbers(measured: PerPrompt, appearance: Appearance, ordinary: Ordinary) -> None:
    """Put the plain numbers of a run's images into the measures of its prompts."""
    numbers, start = ordinary.numbers_of(appearance), 0
    for prompt, count in zip(measured, appearance.counts, strict=True):
        prompt.update({name: values[start : start + count].tolist() for name, values in numbers.items()})
        start += count


def add_quality(
    results: Sequence[Result],
    measured: Mapping[str, PerPrompt],
    quality: Quality,
    bootstrap: BootstrapSettings = USUAL,
) -> None:
    """Put CMMD, the change that plain generation does not have, and whether the images are ruined into results.

    Args:
        results: of `mitigation.summarize`, the plain numbers among them.
    """
    for kind in dict.fromkeys(r["kind"] for r in results):
        rows = [r for r in results if r["kind"] == kind]
        plain = next((r for r in rows if r["method"] == PLAIN), None)
        for r in rows:
            r["quality_reference"] = quality.reference.name
            if quality.ordinary.appearance.features is not None:
                r |= cmmd_results(r, plain, measured, quality)
            if plain is not None:
                r["outside_change"] = outside_change(measured[r["run"]], measured[plain["run"]], kind, bootstrap)
            r["ruined"] = is_ruined(r)
            if kind == ALL:
                r |= quality.inception.get(r["run"], {})


def cmmd_results(
    result: Result, plain: Result | None, measured: Mapping[str, PerPrompt], quality: Quality
) -> dict[str, Any]:
    """CMMD of one result with its interval, the released code's number, and what it is above plain generation's."""
    prompts = {m["prompt"] for m in measured[result["run"]] if result["kind"] in (ALL, m["kind"])}
    ordinary = quality.ordinary.appearance.feature_set(prompts if quality.reference.is_own else None)
    sums = kernel_sums(quality.appearances[result["run"]].feature_set(prompts), ordinary)
    value, without = cmmd(sums), leave_one_out(sums)
    found = {CMMD: jackknife_measure(value, without, sums), RELEASED: cmmd_released(sums)}
    if plain is not None and result is not plain and not quality.reference.is_own:
        others = kernel_sums(quality.appearances[plain["run"]].feature_set(prompts), ordinary)
        found[CMMD_CHANGE] = jackknife_measure(value - cmmd(others), without - leave_one_out(others), sums)
    return found


def jackknife_measure(value: float, without: np.ndarray, sums: KernelSums) -> Measure:
    low, high = jackknife_interval(value, without, sums)
    return {"value": value, "low": low, "high": high}


def outside_change(run: PerPrompt, plain: PerPrompt, kind: str, bootstrap: BootstrapSettings) -> Measure:
    """Share of images that are unlike ordinary ones, less that of plain generation of the same prompts."""
    pairs = [(m, p) for m, p in zip(run, plain, strict=True) if kind in (ALL, m["kind"])]
    differences = [float(np.mean(m["outside"]) - np.mean(p["outside"])) for m, p in pairs]
    return mean_interval(differences, np.arange(len(differences)), bootstrap)


def is_ruined(result: Result) -> bool:
    """Whether at least `RUINED` of the images are unlike ordinary ones, and clearly more than of plain generation."""
    is_clear = "outside_change" not in result or result["outside_change"]["low"] > 0
    return bool(result["outside"]["value"] >= RUINED and is_clear)


def quality_table(results: Sequence[Result], quality: Quality) -> Table:
    """`Table` of every run on one kind of prompt, ordinary images first."""
    first, appearance = results[0], quality.ordinary.appearance
    columns = {CMMD: "CMMD, unbiased", CMMD_CHANGE: "less plain's", RELEASED: "CMMD, released code's", **INCEPTION}
    columns = {n: text for n, text in (columns | PLAIN_NUMBERS).items() if any(n in r for r in results)}
    known = {"saturated": appearance.saturated.mean(), "contrast": appearance.contrast.mean()}
    rows = [["ordinary", "", *(f"{known[n]:.3f}" if n in known else "" for n in columns), ""]]
    for r in results:
        cells = [cell(r.get(n)) for n in columns]
        rows.append([r["method"], f"{r['strength']:g}", *cells, "ruined" if r["ruined"] else ""])
    caption = f"{first['kind']}, quality against {quality.reference.name} ({len(appearance.prompts)} images)"
    return Table(caption, ["method", "strength", *columns.values(), ""], rows, notes_on_quality(results, quality))


def cell(value: Measure | float | None) -> str:
    """A number as tables have it, a dash where there is none."""
    if isinstance(value, dict):
        return interval_text(value)
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"


def notes_on_quality(results: Sequence[Result], quality: Quality) -> str:
    """What stands under the table."""
    first, ordinary = results[0], quality.ordinary.appearance
    few = min(first["prompts"] * first["images"], len(ordinary.prompts)) < FEW_IMAGES
    notes = [
        f"Unlike ordinary: saturation, contrast or spectrum beyond all but {RARE:.0%} of the reference's images; "
        f"ruined: at least {RUINED:.0%} of the images, and more than of plain generation.",
        quality.reference.note,
        f"CMMD: features of {quality.model}, interval by leaving out prompts."
        if CMMD in first
        else "No CMMD without CLIP: give --reference_model.",
        f"CMMD of fewer than {FEW_IMAGES} images has a wide interval." if few and CMMD in first else "",
    ]
    return " ".join(note for note in notes if note)
