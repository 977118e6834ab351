"""The doses of a planted world: how often its training set repeats what is planted, whatever the world is made of."""

from collections.abc import Sequence
from dataclasses import dataclass

FULL_DOSE = 1024
DOSES = (1, 4, 16, 64, 256, FULL_DOSE)  # of the drawn world, whose model copies nothing of 64 and everything of 256
FOLDER_DOSES = (1, 4, 16, 64, 128, 256, FULL_DOSE)  # of pictures in a folder: one more between them
NUM_FULL, NUM_PER_DOSE = 16, 8  # items of either kind at the full dose, at each other one
MANY_CAPTIONS = 4  # captions of a picture that has several
MANY_CAPTION_DOSES = (64, 256)
MOST_REDRAWN = 256  # pictures of a template that differ; a larger dose repeats them
KINDS = ("verbatim", "template")


@dataclass(frozen=True)
class Dose:
    """What is planned for one item.

    Attributes:
        kind: "verbatim" (a whole picture is repeated) or "template" (a region of it, the rest being redrawn).
        dose: how many pictures of the training set carry it.
        num_captions: how many wordings they come with, in turn.
    """

    kind: str
    dose: int
    num_captions: int = 1


def dose_plan(num_full: int = NUM_FULL, num_per_dose: int = NUM_PER_DOSE, doses: Sequence[int] = DOSES) -> list[Dose]:
    """Every item's dose: the full one first, then the others, falling; last the pictures of several captions.

    Args:
        doses: rising, the full one last.
    """
    plan = [Dose(kind, FULL_DOSE) for kind in KINDS for _ in range(num_full)]
    for dose in doses[-2::-1]:
        plan += [Dose(kind, dose) for kind in KINDS for _ in range(num_per_dose)]
    return plan + [Dose("verbatim", dose, MANY_CAPTIONS) for dose in MANY_CAPTION_DOSES for _ in range(num_per_dose)]
