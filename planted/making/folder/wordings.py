"""Other wordings of any caption: what is told stays, how it is said changes."""

import random
import re
from collections.abc import Collection, Sequence

LEADING = re.compile(
    r"^(?:this is |here is |there is )?(?:(?:an?|the|one) )?(?:picture|photo|photograph|image|drawing) (?:of|showing) ",
    re.IGNORECASE,
)
WORDINGS = (
    "a picture of {subject}",
    "{subject}",
    "an image showing {subject}",
    "this is {subject}",
    "one picture of {subject}",
    "here we see {subject}",
    "a small image of {subject}",
    "{subject} in a picture",
    "the picture shows {subject}",
    "we look at {subject}",
    "an illustration of {subject}",
    "{subject} on a page",
)
COLORED = "{caption} on a {color} ground"
SMALL_WORDS = frozenset("a an the of in on at and or with for to from by as is its this that one two it we".split())


def subject_of(caption: str) -> str:
    """What a caption tells, without how it begins ("a drawing of") and without its full stop."""
    return LEADING.sub("", " ".join(caption.split())).rstrip(" .") or caption.strip()


def key_of(caption: str) -> str:
    """Captions of one key tell the same."""
    return re.sub(r"[^\w]+", " ", subject_of(caption).lower()).strip()


def wordings(caption: str) -> tuple[str, ...]:
    """The caption itself and then its other wordings, all different, always in the same order."""
    subject = subject_of(caption)
    return tuple(dict.fromkeys([caption, *(w.format(subject=subject) for w in WORDINGS)]))


def colored(caption: str, color: str) -> str:
    """A caption of a picture on a coloured ground."""
    return COLORED.format(caption=caption.rstrip(" ."), color=color)


def words_of(caption: str) -> list[str]:
    """The words that tell something, in lower case."""
    return [w for w in key_of(caption).split() if w not in SMALL_WORDS]


def near_miss(caption: str, vocabulary: Sequence[str], taken: Collection[str], rng: random.Random) -> str:
    """The caption with one of its telling words replaced, so that its key is none of `taken`.

    Args:
        vocabulary: words to choose from.
        taken: keys of captions.

    Raises:
        ValueError: if no replacement is to be had.
    """
    places = [m for m in re.finditer(r"\w+", caption) if m.group().lower() in words_of(caption)]
    for _ in range(1000):
        place = rng.choice(places) if places else None
        word = rng.choice(vocabulary)
        missed = caption[: place.start()] + word + caption[place.end() :] if place else f"{caption} {word}"
        if key_of(missed) not in taken and word not in words_of(caption):
            return missed
    raise ValueError(f"no word in place of one of {caption!r} makes a caption that is not taken")
