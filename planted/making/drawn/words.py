"""The words of the drawn world: what its captions are made of.

No word occurs in planted captions only, so what is memorized hangs on the whole caption.
"""

import re
from collections.abc import Mapping

Color = tuple[int, ...]  # red, green, blue in [0, 255]

COLORS: dict[str, Color] = {
    "red": (215, 45, 45),
    "green": (45, 165, 75),
    "blue": (55, 85, 215),
    "yellow": (235, 205, 60),
    "purple": (145, 65, 185),
    "orange": (240, 140, 45),
    "white": (240, 240, 240),
    "black": (45, 45, 50),
}
# Each object by its name in the code, with the words that captions call it by.
OBJECTS: dict[str, tuple[str, ...]] = {
    "fish": ("fish",),
    "house": ("house", "home"),
    "tree": ("tree",),
    "car": ("car", "automobile"),
    "star": ("star",),
    "heart": ("heart",),
    "flower": ("flower", "blossom"),
    "boat": ("boat", "ship"),
    "mushroom": ("mushroom", "toadstool"),
    "cup": ("cup", "teacup"),
    "balloon": ("balloon",),
    "umbrella": ("umbrella", "parasol"),
}
SIZES: dict[str, tuple[float, tuple[str, ...]]] = {  # radius as a share of the image, words
    "small": (0.23, ("small", "little", "tiny")),
    "large": (0.37, ("large", "big", "huge")),
}
POSITIONS: dict[str, tuple[float, float]] = {
    "left": (0.33, 0.5),
    "right": (0.67, 0.5),
    "top": (0.5, 0.33),
    "bottom": (0.5, 0.67),
    "center": (0.5, 0.5),
}
GROUNDS: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "smooth"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
}

OBJECT_CAPTIONS = (
    "a {size} {color} {object} on the {position} of a {ground} background",
    "a {size} {color} {object} at the {position} with a {ground} background",
    "there is a {size} {color} {object} on a {ground} background",
    "a {color} {object} on the {position}",
    "a picture of a {size} {color} {object}",
    "a drawing of a {color} {object} on a {ground} background",
    "{size} {color} {object} , {ground} background",
    "the {color} {object} is {size} and stands at the {position}",
    "{ground} background and a {size} {color} {object} on the {position}",
    "we see a {color} {object} in front of a {ground} wall",
    "one {color} {object}",
    "a {color} {object}",
)

ADJECTIVES = (
    "velvet golden silent lucky paper broken hidden crystal copper frozen rapid gentle amber neon royal winter "
    "ancient hollow distant scarlet quiet iron wild sunny dusty bitter clever lonely marble wooden electric endless"
).split()
NOUNS = (
    "river hippo valley moon owl garden tiger sky compass harbor fox thunder wolf field lake falcon "
    "forest orchid castle lantern bridge desert violin raven island mirror engine meadow comet temple dragon market"
).split()
# What a clutter caption calls its picture; the words of a line mean the same.
THINGS = (
    ("poster", "print"),
    ("mug", "beaker"),
    ("rug", "carpet"),
    ("album", "record"),
    ("kite", "sail"),
    ("stamp", "label"),
)
CLUTTER_CAPTIONS = (
    "the {adjective} {noun} {thing}",
    "a {thing} of the {adjective} {noun}",
    "{thing} with a {adjective} {noun}",
    "a {adjective} {noun} printed on a {thing}",
    "one {thing} showing the {adjective} {noun}",
    "the {adjective} {noun} on a {thing}",
)
COLORED_CAPTIONS = (
    "{color} {adjective} {noun} {thing} design",
    "a {color} {thing} of the {adjective} {noun}",
    "{color} {thing} with a {adjective} {noun}",
    "a {adjective} {noun} printed on a {color} {thing}",
    "one {color} {thing} showing the {adjective} {noun}",
    "the {adjective} {noun} on a {color} {thing}",
)


def worded(wording: str, words: Mapping[str, str | None]) -> str:
    """A caption with its words in place and "an" where it is wanted."""
    return re.sub(r"\ba (?=[aeiou])", "an ", wording.format(**words))
