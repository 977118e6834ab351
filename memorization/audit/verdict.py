"""What a model gives back of its training set, in numbers with intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from memorization.audit.attacks import Attacked
from memorization.audit.captions import TrainingSet
from memorization.audit.returned import Returned, of_kind, prompts_with, returned_pictures, share_of
from memorization.audit.screening import FLAGGED, UNFLAGGED, Screened
from memorization.evaluation.copies import Copies
from memorization.evaluation.shares import exact_bounds
from memorization.evaluation.statistics import LEVEL, Measure


@dataclass(frozen=True)
class Verdict:
    """What an audit found.

    Attributes:
        num_pictures, num_captions: of the training set.
        num_flagged: captions that the screen flags.
        fdr: share of false ones that is allowed among captions that give a copy: of the flagged, and of the others.
        returned: training pictures that come back from captions, the most similar first.
        copied_flagged: share of the flagged captions that give a copy.
        copied_unflagged: share of those sampled among the others that may: that give one, or an image nearer to a
            training picture than every control; None where all were flagged.
        missed_at_most: upper bound, at 95 %, of captions that do so and were not flagged, as a share of all.
        copied_mitigated: share of the flagged captions that give a copy under the mitigation, by the lowest similarity
            that is one without it; None without one.
        attacks: what extraction attacks bring back, those that were tried.
        warnings: why little could be found, in a line each.
    """

    num_pictures: int
    num_captions: int
    num_flagged: int
    fdr: float
    returned: list[Returned]
    copied_flagged: Measure | None
    copied_unflagged: Measure | None
    missed_at_most: float
    copied_mitigated: Measure | None = None
    attacks: Sequence[Attacked] = ()
    warnings: Sequence[str] = ()

    @property
    def num_back(self) -> int:
        """Training pictures that come back, from captions or by an attack."""
        return len({one.place for one in self.returned} | {place for one in self.attacks for place in one.new})

    @property
    def shown_bound(self) -> float:
        """`missed_at_most` as a page says it: up to the next thousandth, since it is an upper bound."""
        return math.ceil(1000 * self.missed_at_most - 1e-9) / 1000

    def headline(self) -> str:
        """The verdict in half a sentence."""
        return f"{self.num_back:,} of {self.num_pictures:,} training pictures come back"

    def text(self) -> str:
        """The verdict in a sentence or two, and one for each attack."""
        return f"{self.headline()}, {' '.join(self.details())}"

    def details(self) -> list[str]:
        """What `text` says behind the headline: the end of its sentence, and the others."""
        told = f"at a false discovery rate of {100 * self.fdr:g}% over captions"
        if self.attacks:
            told += f", {len(self.returned):,} of them from their captions alone"
        return [f"{told}.", *(one.text() for one in self.attacks), self.screen_text()]

    def screen_text(self) -> str:
        told = f"The screen flags {self.num_flagged:,} of {self.num_captions:,} captions"
        if self.copied_unflagged is None:
            return told + "."
        found, drawn = self.copied_unflagged["count"], self.copied_unflagged["of"]
        told += f"; of {drawn:,} drawn among the others {found:,} may give a copy, so that it misses at most "
        return told + f"{100 * self.shown_bound:.1f}% of all captions."

    def plain(self) -> dict[str, Any]:
        """For audit.json."""
        counts = {"num_returned": len(self.returned), "num_back": self.num_back}
        return asdict(replace(self, attacks=())) | counts | {"text": self.text()}


def judge(training: TrainingSet, screened: Screened, found: Copies, mitigated: Copies | None = None) -> Verdict:
    """
    Args:
        found: of `evaluate_copies`, decided by prompt: the images of the captions that were generated.
        mitigated: the flagged captions' images under a mitigation, against the same controls.
    """
    kinds, copied = screened.kinds, prompts_with(found.lines, lambda line: line["is_copy"])
    share = share_of(of_kind(prompts_that_may_copy(found), UNFLAGGED, kinds)) if screened.sampled else None
    return Verdict(
        num_pictures=len(training.pictures),
        num_captions=len(training.captions),
        num_flagged=len(screened.flagged),
        fdr=screened.decisions.fdr,
        returned=returned_pictures(training, found.lines, kinds),
        copied_flagged=share_of(of_kind(copied, FLAGGED, kinds)) if screened.flagged else None,
        copied_unflagged=share,
        missed_at_most=missed_bound(share, screened.num_unflagged, len(screened.decided)),
        copied_mitigated=None if mitigated is None else still_copied(found, mitigated, kinds),
        warnings=warnings_of(found),
    )


def prompts_that_may_copy(found: Copies) -> dict[int, bool]:
    """Whether a prompt gives a copy, or an image nearer to a training picture than every control, by its index."""
    lowest = 1 / (found.controls + 1)
    return prompts_with(found.lines, lambda line: line["is_copy"] or line["p"] <= lowest)


def warnings_of(found: Copies) -> list[str]:
    """Why little could be found; what few controls hide among captions that are not flagged is in their share."""
    told = found.too_few_controls().get(FLAGGED)
    return [] if told is None else [told]


def still_copied(found: Copies, mitigated: Copies, kinds: Mapping[int, str]) -> Measure:
    """Share of flagged captions that give a copy under the mitigation.

    By the p-value up to which there were copies without it: a rate over images that are hardly ever copies any more
    would leave out those that are.
    """
    copies = [line["p"] for line in found.lines if line["is_copy"] and kinds[line["index"]] == FLAGGED]
    limit = max(copies, default=0.0)
    return share_of(of_kind(prompts_with(mitigated.lines, lambda line: line["p"] <= limit), FLAGGED, kinds))


def missed_bound(share: Measure | None, num_unflagged: int, num_captions: int) -> float:
    """Upper bound, at 95 %, of the share of all captions that give a copy and were not flagged.

    Of a random sample by Clopper and Pearson; what is known of every one of them needs no bound.
    """
    if share is None:
        return 0.0
    drawn = share["of"]
    bound = float(exact_bounds(share["value"], drawn, miss=2 * (1 - LEVEL))[1])
    return (share["value"] if drawn == num_unflagged else bound) * num_unflagged / num_captions
