"""Training pictures that come back, each by the image that is most like it, and shares of captions that give one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memorization.audit.captions import TrainingSet
from memorization.evaluation.judged_images import Line
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure


@dataclass(frozen=True)
class Returned:
    """A training picture that comes back, by the image that is most like it.

    Attributes:
        place: among all pictures.
        index: of the picture's record.
        caption: the picture's own.
        repeats: how often the data says that it is trained on, as kohya's folders do.
        prompt: what the image was generated from, and its index.
        similarity: of the image to the picture; p, q: of that against the controls.
        found_by: whether the screen had flagged the prompt.
        num_images: how many images are copies of it.
    """

    place: int
    index: int
    caption: str
    repeats: int
    picture: str
    prompt: str
    prompt_index: int
    seed: int
    similarity: float
    p: float
    q: float
    found_by: str
    num_images: int


def prompts_with(lines: Sequence[Line], holds: Callable[[Line], bool]) -> dict[int, bool]:
    """Whether something holds of any image of a prompt, by its index."""
    found: dict[int, bool] = {}
    for line in lines:
        found[line["index"]] = found.get(line["index"], False) or bool(holds(line))
    return found


def share_of(copied: Mapping[int, bool]) -> Measure:
    """Share of prompts of which something holds, with its exact interval."""
    return share_measure([float(holds) for holds in copied.values()], list(copied))


def of_kind(copied: Mapping[int, bool], kind: str, kinds: Mapping[int, str]) -> dict[int, bool]:
    """Those of the prompts that are of a kind."""
    return {index: holds for index, holds in copied.items() if kinds[index] == kind}


def returned_pictures(training: TrainingSet, lines: Sequence[Line], kinds: Mapping[int, str]) -> list[Returned]:
    """Training pictures that an image is a copy of, each by its most similar one, the most similar first."""
    copies: dict[int, list[Line]] = {}
    for line in lines:
        if line["is_copy"]:
            copies.setdefault(line["nearest_picture"], []).append(line)
    found = [of_picture(training, place, some, kinds) for place, some in copies.items()]
    return sorted(found, key=lambda one: -one.similarity)


def of_picture(training: TrainingSet, place: int, copies: Sequence[Line], kinds: Mapping[int, str]) -> Returned:
    best, (index, file) = max(copies, key=lambda line: line["nearest"]), training.pictures[place]
    record = training.records[index]
    return Returned(
        place=place,
        index=index,
        caption=record.prompt,
        repeats=record.repeats,
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
