"""What an audit compares with: controls out of the settings, and too few of them refused."""

import math
from collections.abc import Mapping

from memorization.audit.attacks import refuse_attack_controls
from memorization.audit.captions import TrainingSet, read_controls, recombined_captions
from memorization.audit.settings import AuditSettings
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError


def chosen_controls(training: TrainingSet, settings: AuditSettings) -> dict[int, PromptRecord]:
    """Captions that were not trained on, numbered anew: given ones, or made out of the words of those that were.

    Raises:
        InputError: if there are none, or too few to call anything a copy.
    """
    if settings.controls is not None:
        controls = dict(enumerate(read_controls(settings.controls, training, settings.num_controls)))
    else:
        controls = dict(enumerate(recombined_captions(training.captions, settings.num_controls, settings.seed)))
    refuse_too_few_controls(settings, training, len(controls))
    for name in settings.attacks:
        refuse_attack_controls(name, controls, settings.num_copy_controls, settings.enough_controls)
    return controls


def refuse_too_few_controls(settings: AuditSettings, training: TrainingSet, num_controls: int) -> None:
    """
    Raises:
        InputError: if nothing could be called a copy, whatever came of it.
    """
    has_base, enough = settings.base_model_id is not None, settings.enough_controls
    count = len(training.captions) if has_base else min(num_controls, settings.num_copy_controls)
    if count < enough:
        what = "captions, whose images by the base are controls" if has_base else "controls of copies"
        remedy = "give" if has_base else "give more --controls and --num_copy_controls, or"
        told = f"with {count} {what}, nothing is ever a copy at --fdr {settings.fdr:g}, which takes {enough}"
        raise InputError(f"{told}; {remedy} --fdr {math.ceil(1000 / (count + 1)) / 1000:g} or more")


def pictures_of_controls(settings: AuditSettings, controls: Mapping[int, PromptRecord]) -> dict[int, PromptRecord]:
    """Controls with pictures, where controls are what is no copy: images of the base have none of their own."""
    return {} if settings.base_model_id is not None else with_pictures(controls)


def with_pictures(controls: Mapping[int, PromptRecord]) -> dict[int, PromptRecord]:
    return {index: record for index, record in controls.items() if record.reference_images}
