"""What a model gives back of its training set, in numbers with intervals."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memorization.audit.captions import TrainingSet
from memorization.audit.screening import FLAGGED, UNFLAGGED, Screened
from memorization.evaluation.copies import Copies
from memorization.evaluation.judged_images import Line
from memorization.evaluation.shares import exact_bounds, share_measure
from memorization.evaluation.statistics import LEVEL, Measure


@dataclass(frozen=True)
class Returned:
    """A training picture that comes back, by the image that is most like it.

    Attributes:
        place: among all pictures.
        index: of the picture's record.
        caption: the picture's own.
        prompt: what the image was generated from, and its index.
        similarity: of the image to the picture; p, q: of that against the controls.
        found_by: whether the screen had flagged the prompt.
        num_images: how many images are copies of it.
    """

    place: int
    index: int
    caption: str
    picture: str
    prompt: str
    prompt_index: int
    seed: int
    similarity: float
    p: float
    q: float
    found_by: str
    num_images: int


@dataclass(frozen=True)
class Verdict:
    """What an audit found.

    Attributes:
        num_pictures, num_captions: of the training set.
        num_flagged: captions that the screen flags.
        fdr: share of false ones that is allowed among captions that give a copy: of the flagged, and of the others.
        returned: training pictures that come back, the most similar first.
        copied_flagged: share of the flagged captions that give a copy.
        copied_unflagged: share of those sampled among the others that may: that give one, or an image nearer to a
            training picture than every control; None where all were flagged.
        missed_at_most: upper bound, at 95 %, of captions that do so and were not flagged, as a share of all.
        copied_mitigated: share of the flagged captions that give a copy under the mitigation, by the lowest similarity
            that is one without it; None without one.
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
    warnings: Sequence[str] = ()

    def text(self) -> str:
        """The verdict in a sentence or two."""
        told = f"{len(self.returned):,} of {self.num_pictures:,} training pictures come back, "
        told += f"at a false discovery rate of {100 * self.fdr:g}% over captions. "
        told += f"The screen flags {self.num_flagged:,} of {self.num_captions:,} captions"
        if self.copied_unflagged is None:
            return told + "."
        found, drawn = self.copied_unflagged["count"], self.copied_unflagged["of"]
        told += f"; of {drawn:,} drawn among the others {found:,} may give a copy, so that it misses at most "
        return told + f"{math.ceil(1000 * self.missed_at_most - 1e-9) / 10:.1f}% of all captions."

    def plain(self) -> dict[str, Any]:
        """For audit.json."""
        return asdict(self) | {"num_returned": len(self.returned), "text": self.text()}


def judge(training: TrainingSet, screened: Screened, found: Copies, mitigated: Copies | None = None) -> Verdict:
    """
    Args:
        found: of `evaluate_copies`, decided by prompt: the images of the captions that were generated.
        mitigated: the flagged captions' images under a mitigation, against the same controls.
    """
    kinds, lowest = screened.kinds, 1 / (found.controls + 1)  # p-value of what is nearer than every control
    copied = prompts_with(found.lines, lambda line: line["is_copy"])
    may_copy = prompts_with(found.lines, lambda line: line["is_copy"] or line["p"] <= lowest)
    share = share_of(may_copy, UNFLAGGED, kinds) if screened.sampled else None
    return Verdict(
        num_pictures=len(training.pictures),
        num_captions=len(training.captions),
        num_flagged=len(screened.flagged),
        fdr=screened.decisions.fdr,
        returned=returned_pictures(training, found.lines, kinds),
        copied_flagged=share_of(copied, FLAGGED, kinds) if screened.flagged else None,
        copied_unflagged=share,
        missed_at_most=missed_bound(share, screened.num_unflagged, len(screened.lines)),
        copied_mitigated=None if mitigated is None else still_copied(found, mitigated, kinds),
        warnings=warnings_of(found),
    )


def warnings_of(found: Copies) -> list[str]:
    """Why little could be found; what few controls hide among captions that are not flagged is in their share."""
    told = found.too_few_controls().get(FLAGGED)
    return [] if told is None else [told]


def prompts_with(lines: Sequence[Line], holds: Callable[[Line], bool]) -> dict[int, bool]:
    """Whether something holds of any image of a prompt, by its index."""
    found: dict[int, bool] = {}
    for line in lines:
        found[line["index"]] = found.get(line["index"], False) or bool(holds(line))
    return found


def still_copied(found: Copies, mitigated: Copies, kinds: Mapping[int, str]) -> Measure:
    """Share of flagged captions that give a copy under the mitigation.

    By the p-value up to which there were copies without it: a rate over images that are hardly ever copies any more
    would leave out those that are.
    """
    copies = [line["p"] for line in found.lines if line["is_copy"] and kinds[line["index"]] == FLAGGED]
    limit = max(copies, default=0.0)
    return share_of(prompts_with(mitigated.lines, lambda line: line["p"] <= limit), FLAGGED, kinds)


def share_of(copied: Mapping[int, bool], kind: str, kinds: Mapping[int, str]) -> Measure:
    """Share of the prompts of a kind that give a copy, with its exact interval."""
    some = [index for index in copied if kinds[index] == kind]
    return share_measure([float(copied[index]) for index in some], some)


def missed_bound(share: Measure | None, num_unflagged: int, num_captions: int) -> float:
    """Upper bound, at 95 %, of the share of all captions that give a copy and were not flagged.

    Of a random sample by Clopper and Pearson; what is known of every one of them needs no bound.
    """
    if share is None:
        return 0.0
    drawn = share["of"]
    bound = float(exact_bounds(share["value"], drawn, miss=2 * (1 - LEVEL))[1])
    return (share["value"] if drawn == num_unflagged else bound) * num_unflagged / num_captions


def returned_pictures(training: TrainingSet, lines: Sequence[Line], kinds: Mapping[int, str]) -> list[Returned]:
    """Training pictures that an image is a copy of, each by its most similar one."""
    copies: dict[int, list[Line]] = {}
    for line in lines:
        if line["is_copy"]:
            copies.setdefault(line["nearest_picture"], []).append(line)
    found = [of_picture(training, place, some, kinds) for place, some in copies.items()]
    return sorted(found, key=lambda one: -one.similarity)


def of_picture(training: TrainingSet, place: int, copies: Sequence[Line], kinds: Mapping[int, str]) -> Returned:
    best, (index, file) = max(copies, key=lambda line: line["nearest"]), training.pictures[place]
    return Returned(
        place=place,
        index=index,
        caption=training.records[index].prompt,
        picture=str(file),
        prompt=best["prompt"],
        prompt_index=best["index"],
        seed=best["seed"],
        similarity=best["nearest"],
        p=best["p"],
        q=best["q"],
        found_by=kinds[best["index"]],
        num_images=len(copies),
    )
