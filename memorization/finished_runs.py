"""Finished runs read back for evaluation: rows, settings and images, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memorization.errors import InputError
from memorization.files.config import config_path, read_config
from memorization.files.json_lines import decode_line, numbered_lines
from memorization.files.layout import RunFiles
from memorization.files.masks import MaskedPrompt, open_masks
from memorization.files.whole import read_png
from memorization.identity import CONTENT, MODEL_PARTS, SCHEDULER, differing, pair_text
from memorization.mitigations.base import PLAIN
from memorization.mitigations.options import is_weaker_when_larger, method_label, strength_of_settings
from memorization.rows import AGAIN, check_counts, check_row, is_number
from memorization.seeds import image_seeds, is_whole

SAMPLING_SETTINGS = (
    *MODEL_PARTS,
    "guidance_scale",
    "num_inference_steps",
    "image_length",
)
MODEL_SETTINGS = (*SAMPLING_SETTINGS, SCHEDULER, CONTENT)
# Settings that evaluation computes with; they are None of other methods, and missing in old runs.
NUMBERS = ("rand_noise_lam", "repeat_num", "l_target_ss", "l_target_pr", "optim_target_loss", "strength", "contrast")

Masks = Mapping[tuple[int, int], np.ndarray]


@dataclass(frozen=True)
class Run:
    """One results file of detect_mem.py or inference_mem.py.

    Attributes:
        path: the .jsonl file, or the .parquet file of a screen.
        rows: one mapping per prompt, in the order of their index; of a screen in that of the data set.
        settings, versions: what the .config.json beside it says.
    """

    path: Path
    rows: Sequence[Mapping]
    settings: Mapping
    versions: Mapping

    @property
    def files(self) -> RunFiles:
        return RunFiles.of_rows(self.path)

    @property
    def key(self) -> str:
        """Name of the run's files, its version or method included."""
        return self.files.key

    @property
    def is_mitigation(self) -> bool:
        return self.files.is_mitigation

    @property
    def dataset(self) -> str:
        """Short name of the prompt set."""
        return Path(str(self.settings.get("dataset"))).stem

    def image(self, row: Mapping, k: int) -> np.ndarray:
        """Image k of a row, uint8 (height, width, 3)."""
        return read_png(self.files.image(row["index"], row["seeds"][k]))

    def has_images(self) -> bool:
        """Whether the first image of every row is there as PNG."""
        return all(self.files.image(row["index"], row["seeds"][0]).exists() for row in self.rows)

    def images(self, row: Mapping) -> np.ndarray:
        """All images of a row, uint8 (images, height, width, 3).

        Raises:
            InputError: if a PNG is missing or damaged.
        """
        return np.stack([self.image(row, k) for k in range(len(row["seeds"]))])


def read_run(path: Path | str) -> Run:
    """Read and check a results file.

    Raises:
        InputError: one line that names file, row and fault: no such file, no settings beside it, rows of
            another version of the scripts, scores that are no numbers, unequal numbers of images.
    """
    path = Path(path)
    config = config_path(path)
    if not path.is_file():
        raise InputError(f"result file {path} does not exist; give a .jsonl or a screen's .parquet of det_outputs/")
    if not config.is_file():
        raise InputError(f"{path} has no {config.name} beside it: it is no result file, or of another version")
    settings, versions = read_config(config, AGAIN)
    if not are_settings(settings):
        raise InputError(f"{config} does not say how its rows were made; {AGAIN}")
    if path.suffix == ".parquet":
        return Run(path, screened_rows(path, settings), settings, versions)
    lines = numbered_lines(path, finished_only=True)
    rows = [check_row(path, number, decode_line(path, number, line)) for number, line in lines]
    if not rows:
        raise InputError(f"{path} has no finished rows")
    check_counts(path, rows)
    return Run(path, tuple(sorted(rows, key=lambda row: row["index"])), settings, versions)


def screened_rows(path: Path, settings: Mapping) -> Sequence[Mapping]:
    """The rows of a screen, whose images have the seeds of its settings.

    Raises:
        InputError: if the file is damaged or has no rows.
    """
    from memorization.files.columns import read_rows

    count: Any = settings.get("num_images_per_prompt")
    rows = read_rows(path, image_seeds(settings["gen_seed"], 0, count if is_whole(count) else 0))
    if not len(rows):
        raise InputError(f"{path} has no finished rows")
    return rows


def are_settings(settings: Mapping) -> bool:
    """Whether the settings that evaluation computes with are of their types."""
    if not (isinstance(settings.get("dataset"), str) and is_whole(settings.get("gen_seed"))):
        return False
    return all(settings.get(name) is None or is_number(settings[name]) for name in NUMBERS)


def differing_setting(settings: Mapping, others: Mapping, names: Sequence[str] = MODEL_SETTINGS) -> str | None:
    """The first of some settings that is not the same in both; by default of those that decide every number.

    Models are compared by content, where both settings have it.
    """
    return next(iter(differing(settings, others, names)), None)


def check_same_model(runs: Sequence[Run], what: str = "compared") -> None:
    """Refuse runs that differ in what decides every number: model, steps, guidance, size.

    Raises:
        InputError: naming both runs and the setting.
    """
    first = runs[0]
    for run in runs[1:]:
        name = differing_setting(first.settings, run.settings)
        if name is not None:
            values = " and ".join(pair_text(name, first.settings, run.settings))
            raise InputError(f"{first.path} and {run.path} cannot be {what}: {name} is {values}")


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that are not of the same prompts and seeds of one model.

    Raises:
        InputError: naming two runs and the difference.
    """
    check_same_model(runs)
    first = [(row["index"], row["prompt"], tuple(row["seeds"])) for row in runs[0].rows]
    for run in runs[1:]:
        other = [(row["index"], row["prompt"], tuple(row["seeds"])) for row in run.rows]
        if len(other[0][-1]) != len(first[0][-1]):
            counts = f"{len(first[0][-1])} and {len(other[0][-1])}"
            raise InputError(f"{runs[0].path} and {run.path} have unequal numbers of images per prompt: {counts}")
        if other != first:
            raise InputError(f"{runs[0].path} and {run.path} are not of the same prompts and seeds; finish both runs")
    for run in runs:
        if not run.is_mitigation or any({"method", "unet_evals_per_image"} - row.keys() for row in run.rows):
            raise InputError(f"{run.path} is no result of inference_mem.py; give files called *_mitigation.jsonl")


def method_of(run: Run) -> str:
    """Mitigation of a run without its strength, from its settings: pe, prss_be, rna."""
    return method_label(run.settings)


def strength_of(run: Run) -> float:
    """Strength of a run's mitigation, from its settings: target, noise scale, number of words."""
    return strength_of_settings(run.settings)


def by_strength(runs: Sequence[Run]) -> list[Run]:
    """Runs in the order of method and strength, plain generation first and the weakest of a method before others."""

    def place(run: Run) -> tuple[bool, str, float]:
        strength = strength_of(run)
        weakest_first = -strength if is_weaker_when_larger(run.settings) else strength
        return (method_of(run) != PLAIN, method_of(run), weakest_first)

    return sorted(runs, key=place)


def strongest_runs(runs: Sequence[Run]) -> list[Run]:
    """One run of every method, its strongest, plain generation first: what pictures show."""
    return list({method_of(run): run for run in by_strength(runs)}.values())


def load_masks(path: Path, run: Run) -> Masks:
    """Bright-ending masks by (prompt index, seed) for LS.

    Raises:
        InputError: if they are of another model or way of sampling than the run, or do not have all its images.
    """
    prompts = [MaskedPrompt(row["index"], row["seeds"]) for row in run.rows]
    settings = {name: run.settings.get(name) for name in MODEL_SETTINGS}
    return open_masks(path, prompts, settings, whose=run.path, remedy="give other --masks").masks


def masks_for(runs: Sequence[Run], given: Path | None) -> Masks:
    """Masks that LS weighs with: out of the given file, which must fit, or of the runs' own where there are any."""
    run = next((run for run in runs if run.is_mitigation), runs[0])
    if given is not None:
        return load_masks(given, run)
    try:
        return load_masks(run.files.shared_masks, run)
    except InputError:  # none, or of other runs
        return {}


def stored_masks(run: Run) -> Masks:
    """Masks that a detection run left by (prompt index, seed); none where there is no file, or it says no prompts."""
    try:
        return open_masks(run.files.masks).masks
    except InputError:  # no file, or the original's layout, which does not say whose masks they are
        return {}
