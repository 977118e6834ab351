"""Which captions a screen flags, and which of the others are generated all the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memorization.evaluation.controls import controls_of_run, settings_of
from memorization.evaluation.decided import Decided
from memorization.evaluation.decisions import Decisions
from memorization.finished_runs import Run

FLAGGED, UNFLAGGED = "flagged", "not flagged"


@dataclass(frozen=True)
class Screened:
    """Every caption's score with its p- and q-value.

    Attributes:
        run, controls: of the captions, and of what was not trained on.
        decisions: what they were compared with, and at which rate.
        decided: what came of it, in the order of the run's rows.
        sampled: indices of captions that were not flagged, drawn at random.
    """

    run: Run
    controls: Run
    decisions: Decisions
    decided: Decided
    sampled: Sequence[int]

    @property
    def is_flagged(self) -> np.ndarray:
        """What is memorized at the rate, or scores above every control: few are found at a rate among many others.

        Bool (captions,).
        """
        lowest = 1 / (len(self.decisions.controls.scores) + 1)
        return self.decided.memorized | (self.decided.numbers["p"] <= lowest)

    @property
    def flagged(self) -> list[int]:
        """Indices of the captions that are flagged."""
        return self.decided.indices(self.is_flagged)

    @property
    def num_unflagged(self) -> int:
        return int((~self.is_flagged).sum())

    @property
    def kinds(self) -> dict[int, str]:
        """Of every caption that is generated, whether it was flagged."""
        return dict.fromkeys(self.flagged, FLAGGED) | dict.fromkeys(self.sampled, UNFLAGGED)


def decide_captions(screen: Run, controls: Run, key: str, fdr: float, num_unflagged: int, seed: int) -> Screened:
    """
    Args:
        screen, controls: finished runs of the captions and of what was not trained on.
        key: row key of the score, whose first step decides.
        num_unflagged: captions to draw among those that are not flagged.

    Raises:
        InputError: if the runs were not made in one way.
    """
    decisions = Decisions(controls_of_run(controls, key, 1), fdr)
    decisions.refuse_other_run(settings_of(screen), controls.path)
    screened = Screened(screen, controls, decisions, decisions.of_rows(screen.rows), ())
    others = screened.decided.indices(~screened.is_flagged)
    sampled = random.Random(seed).sample(others, min(num_unflagged, len(others)))
    return replace(screened, sampled=sorted(sampled))
