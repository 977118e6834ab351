"""Control prompts: scores of what is not memorized, which thresholds and decisions compare with.

Both hold for prompts that are exchangeable with the controls where they are not memorized: of the same kind, and scored
in the same way. The latter is checked here, the former nobody can.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memorization.errors import InputError
from memorization.evaluation.classes import Part, rows_by
from memorization.evaluation.score_columns import fingerprints, score_columns
from memorization.finished_runs import MODEL_SETTINGS, Run, differing_setting
from memorization.identity import pair_text
from memorization.rows import score_names
from memorization.scores import label

# What a prompt's score depends on besides its words and seed; a mean over more images, for one, varies less.
CALIBRATED = (*MODEL_SETTINGS, "num_images_per_prompt", "dtype", "seed_mode", "clean_prompts", "early_exit")
EXCHANGEABLE = "p-values are valid where the controls are exchangeable with the prompts that are not memorized"


@dataclass(frozen=True)
class Controls:
    """Scores of control prompts, one each.

    Attributes:
        key: row key of the score.
        T: how many first steps are averaged; None for all, or where the score has no steps.
        scores: mean over each prompt's images, (controls,).
        source: the result files they are from.
        settings: of their runs, by the names of `CALIBRATED`.
    """

    key: str
    T: int | None
    scores: np.ndarray
    source: str
    settings: dict[str, Any]


def controls_of(parts: Sequence[Part], key: str, horizon: int | None) -> Controls:
    """Controls out of rows of prompts that are not memorized: the first row of every prompt.

    The same prompt at another seed is no further evidence, and a mean over seeds varies less than what it is compared
    with.

    Raises:
        InputError: if there are no rows, they do not have the score or steps, or they were not made in one way.
    """
    parts = [part for part in parts if len(part.rows)]
    if not parts:
        raise InputError("there are no control prompts: give a run of prompts that are not memorized")
    run, row = parts[0].run, parts[0].run.rows[0]
    names = score_names(row)
    if key not in names:
        raise InputError(f"{run.path} has no score {label(key)}; its scores are {', '.join(names)}")
    for part in parts:
        told = f"{part.run.path} differs from {run.path}"
        refuse_other_settings(settings_of(run), settings_of(part.run), told)
    columns = [score_columns(part.rows, key, horizon) for part in parts]
    steps = len(row[key][0]) if isinstance(row[key][0], list) else None
    if steps is not None and horizon is not None and horizon > steps:
        raise InputError(f"{run.path} has {steps} steps, T={horizon} is more: choose another --horizon")
    source = ", ".join(dict.fromkeys(str(part.run.path) for part in parts))
    first = np.unique(np.concatenate([fingerprints(c.prompts) for c in columns]), return_index=True)[1]
    scores = np.concatenate([c.means for c in columns])[np.sort(first)]
    return Controls(key, None if steps is None else horizon, scores, source, settings_of(run))


def controls_of_run(run: Run, key: str, horizon: int | None) -> Controls:
    """Controls out of a finished run, without its prompts that are labelled memorized; see `controls_of`."""
    others = rows_by(run.rows, lambda row: row.get("is_memorized") is True).get(False, ())
    return controls_of([Part(run, others)], key, horizon)


def settings_of(run: Run) -> dict[str, Any]:
    """What a run's scores depend on; the number of images is that of its rows."""
    settings = {name: run.settings.get(name) for name in CALIBRATED}
    return settings | {"num_images_per_prompt": len(run.rows[0]["seeds"])}


def refuse_other_settings(theirs: Mapping[str, Any], ours: Mapping[str, Any], what: str) -> None:
    """
    Args:
        theirs, ours: settings of the controls, and of the run that is compared with them.
        what: begins the message.

    Raises:
        InputError: if scores were not made in the same way.
    """
    name = differing_setting(theirs, ours, [n for n in CALIBRATED if n != "early_exit"])
    if name is not None:
        values = "{} {}, this run's is {}".format(name, *pair_text(name, theirs, ours))
        raise InputError(f"{what}: calibrated with {values}; make the control run again with the same options")


def refuse_other_steps(theirs: Mapping[str, Any], ours: Mapping[str, Any], T: int | None, what: str) -> None:
    """
    Args:
        theirs, ours: as of `refuse_other_settings`.
        T: how many first steps the score averages; None for all.

    Raises:
        InputError: if an early exit does not give the steps that the controls' score is of.
    """
    there, here = theirs.get("early_exit"), ours.get("early_exit")
    if there != here if T is None else T > (here or T):
        told = f"T={T or 'all'}" + (f" of --early_exit {there}" if there else "")
        raise InputError(f"{what} is for {told}, which --early_exit {here} does not give")
