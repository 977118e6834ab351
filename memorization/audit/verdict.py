"""What a model gives back of its training set, in numbers with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from memorization.audit.captions import TrainingSet
from memorization.audit.screening import FLAGGED, UNFLAGGED, Screened
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
        fdr: share of false ones that is allowed among flagged captions, and among images called copies.
        returned: training pictures that come back, the most similar first.
        copied_flagged: share of the flagged captions that give a copy.
        copied_unflagged: share of those sampled among the others that do; None where all were flagged.
        missed_at_most: upper bound, at 95 %, of captions that give a copy and were not flagged, as a share of all.
        copied_mitigated: share of the flagged captions that give a copy under the mitigation; None without one.
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

    def text(self) -> str:
        """The verdict in a sentence or two."""
        told = f"{len(self.returned):,} of {self.num_pictures:,} training pictures come back, "
        told += f"at a false discovery rate of {self.fdr:.0%}. "
        told += f"The screen flags {self.num_flagged:,} of {self.num_captions:,} captions"
        if self.copied_unflagged is None:
            return told + "."
        found, drawn = self.copied_unflagged["count"], self.copied_unflagged["of"]
        told += f"; of {drawn:,} drawn among the others {found:,} give a copy, so that it misses at most "
        return told + f"{self.missed_at_most:.1%} of all captions."

    def plain(self) -> dict[str, Any]:
        """For audit.json."""
        return asdict(self) | {"num_returned": len(self.returned), "text": self.text()}


def judge(
    training: TrainingSet, screened: Screened, lines: Sequence[Line], mitigated: Sequence[Line] | None = None
) -> Verdict:
    """
    Args:
        lines: of `evaluate_copies`, one per image of the captions that were generated.
        mitigated: of the flagged captions' images under a mitigation.
    """
    copied = copied_prompts(lines)
    share = share_of(copied, UNFLAGGED, screened.kinds) if screened.sampled else None
    return Verdict(
        num_pictures=len(training.pictures),
        num_captions=len(training.captions),
        num_flagged=len(screened.flagged),
        fdr=screened.decisions.fdr,
        returned=returned_pictures(training, lines, screened.kinds),
        copied_flagged=share_of(copied, FLAGGED, screened.kinds) if screened.flagged else None,
        copied_unflagged=share,
        missed_at_most=missed_bound(share, screened.num_unflagged, len(screened.lines)),
        copied_mitigated=share_of(copied_prompts(mitigated), FLAGGED, screened.kinds) if mitigated else None,
    )


def copied_prompts(lines: Sequence[Line]) -> dict[int, bool]:
    """Whether any image of a prompt is called a copy, by its index."""
    found: dict[int, bool] = {}
    for line in lines:
        found[line["index"]] = found.get(line["index"], False) or bool(line["is_copy"])
    return found


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
