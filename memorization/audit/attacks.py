"""Extraction attacks that an audit tries where it is asked to, what each is compared with, and what it brings back.

An attack may bring back pictures that were never trained on, above all a search for embeddings, which is handed the
picture. So each is made on controls as well: what comes back is decided against them alone, and how many of them come
as near to a picture stands beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from memorization.audit.captions import TrainingSet
from memorization.audit.returned import Returned, prompts_with, returned_pictures, share_of
from memorization.audit.screening import FLAGGED
from memorization.contrast import refuse_contrast
from memorization.data.prompts import PromptRecord
from memorization.errors import InputError
from memorization.evaluation.copies import Copies
from memorization.evaluation.decisions import WARNING
from memorization.evaluation.judged_images import Line
from memorization.evaluation.statistics import Measure
from memorization.needs import NOISE, refuse_undefined

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

CONTRAST, EMBEDDINGS = "contrast", "embeddings"
ATTACKS = {CONTRAST: "by contrast with the base", EMBEDDINGS: "from searched embeddings"}


@dataclass(frozen=True)
class Attacked:
    """What an attack brings back.

    Attributes:
        name: out of `ATTACKS`.
        num_captions: that were attacked: those that were generated.
        num_controls: that were attacked in the same way and not trained on.
        returned: training pictures that come back, decided against those controls, the most similar first.
        new: places of those of them that do not come back from the captions alone.
        near: share of captions with an image nearer to a training picture than every control without the attack.
        near_controls: the same share of the attack's controls, nearer to a training picture or their own.
        warnings: why little could be found, in a line each.
    """

    name: str
    num_captions: int
    num_controls: int
    returned: list[Returned]
    new: list[int]
    near: Measure
    near_controls: Measure
    warnings: Sequence[str] = ()

    def text(self) -> str:
        """In a sentence."""
        told = (
            f"{ATTACKS[self.name].capitalize()} {len(self.returned):,} come back, {len(self.new):,} of them only so; "
        )
        near, controls = ("{count:,} of {of:,}".format(**share) for share in (self.near, self.near_controls))
        return (
            f"{told}{near} captions come nearer to a picture than any control does without it, and {controls} controls."
        )


def attack_controls(name: str, controls: Mapping[int, PromptRecord], most: int) -> dict[int, PromptRecord]:
    """Controls that an attack is made on, the first `most`: of a search those that have pictures to search for."""
    fitting = ((k, record) for k, record in controls.items() if name != EMBEDDINGS or record.reference_images)
    return dict(islice(fitting, most))


def refuse_attack_controls(name: str, controls: Mapping[int, PromptRecord], most: int, enough: int) -> None:
    """
    Args:
        enough: controls below which nothing could be called a copy, whatever came of it.

    Raises:
        InputError: if there are fewer.
    """
    count = len(attack_controls(name, controls, most))
    if count < enough:
        what = "held-out pictures to search for" if name == EMBEDDINGS else "controls to make it on"
        remedy = "with pictures by --controls" if name == EMBEDDINGS else "--controls and --num_copy_controls"
        raise InputError(f"--attacks {name} needs {enough} {what} at this --fdr and has {count}; give more {remedy}")


def refuse_undefined_attacks(names: Sequence[str], pipe: "DenoisingPipeline") -> None:
    """
    Raises:
        InputError: if an attack is not defined for the model.
    """
    if CONTRAST in names:
        refuse_contrast(pipe)
    if EMBEDDINGS in names:
        refuse_undefined(f"--attacks {EMBEDDINGS}", (NOISE,), pipe)


def judge_attack(
    name: str, training: TrainingSet, kinds: Mapping[int, str], plain: Copies, found: Copies, returned: Sequence[int]
) -> Attacked:
    """
    Args:
        kinds: of every caption that was attacked, whether the screen flagged it.
        plain: the images of the captions without the attack, against their controls.
        found: those of the attack, against the attack's controls; decided by prompt.
        returned: places of pictures that come back without it.
    """
    limit = max(line["nearest"] for line in plain.control_lines)

    def is_near(line: Line) -> bool:
        return line["nearest"] > limit

    too_few = found.too_few_controls().get(FLAGGED)
    back = returned_pictures(training, found.lines, kinds)
    return Attacked(
        name=name,
        num_captions=len(prompts_with(found.lines, is_near)),
        num_controls=found.controls,
        returned=back,
        new=[one.place for one in back if one.place not in returned],
        near=share_of(prompts_with(found.lines, is_near)),
        near_controls=share_of(prompts_with(found.control_lines, is_near)),
        warnings=[] if too_few is None else [too_few.replace(WARNING, f"{WARNING}{ATTACKS[name]}, ", 1)],
    )
