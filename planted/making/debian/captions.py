"""Captions in plain words for drawings of openclipart-png, from their folders, file names and titles.

A file is called TITLE_AUTHOR_NUMBER, cut off at some twenty letters; most files also hold title and author as
text. A title that goes on where the file's name is cut off is taken; others are of a whole series ("Lemon SVG theme"),
and then the name is, less the author.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from planted.making.debian.glossary import ENGLISH

# What a drawing is called by the innermost of its folders that says so.
MEDIA = {
    "icons": "an icon of {}",
    "map_symbols": "{} sign",
    "roadsigns": "{} road sign",
    "hazard": "{} warning sign",
    "flags": "the flag of {}",
    "patterns": "{} pattern",
    "cards": "a playing card, {}",
    "buttons": "{} button",
    "smilies": "{} smiley",
    "led": "{} light",
    "clocks": "{} clock",
}
DRAWING = "a drawing of {}"
# Folders that tell nothing of what is drawn.
SILENT = {"png", "unsorted", "special", "examples", "duplicates", "signs_and_symbols", "applications", "action"}
SILENT |= {"actions", "apps", "application", "stock", "miscellany", "devices", "device", "filesystems", "mimetypes"}
# Words of names that tell nothing: of file formats, series and authors that no file names.
NOISE = set(
    "svg png jpg clipart cliparts by the of bw bn md v0 v1 v2 aj ganson rpg element elements symbol 1m 10cm bwh mo "
    "openclipart openclipar aiga gnome fs stock gtk kde xpm www http org com net untitled new01 architetto rollandin "
    "clipart- img sm bb simple template copy alt r16 sibmission theme themes collection part".split()
)
SUITS = {"c": "clubs", "d": "diamonds", "h": "hearts", "s": "spades", "jk": "joker"}
RANKS = {"a": "ace", "k": "king", "q": "queen", "j": "jack"} | {
    str(n): w for n, w in enumerate("two three four five six seven eight nine ten".split(), 2)
}
MOST_WORDS = 8
KNOWN_SHORT = set("tv cd dvd pc usb ram led uk us usa no up ok pda dj gps cpu lcd ant axe bee box".split())


def caption_of(name: str, texts: Mapping[str, str]) -> str:
    """A drawing's caption.

    Args:
        name: of the file, with the folders below png/.
        texts: what the file says under Title and Author.
    """
    path = PurePosixPath(name)
    folders = [f for f in path.parts[:-1] if f != "png"]
    words = card_words(path.stem) if "cards" in folders else []
    words = words or told_words(path.stem, texts)
    groups = [plain(f) for f in folders if f not in SILENT and not f.endswith("-theme")]
    medium = next((f for f in reversed(folders) if f in MEDIA), "")
    return worded(words or [groups[-1] if groups else "something"], medium, other_group(groups, medium, words))


def other_group(groups: Sequence[str], medium: str, words: Sequence[str]) -> str:
    """The innermost group that says more than the words and the medium do; "" where none does."""
    said = {shared(w) for w in words} | {shared(w) for w in plain(medium).split()}
    return next((g for g in reversed(groups) if words and not {shared(w) for w in g.split()} & said), "")


def worded(words: Sequence[str], medium: str, group: str) -> str:
    """The caption of some words, of a medium of MEDIA or of none."""
    form = MEDIA.get(medium, DRAWING)
    if medium == "flags" and {"flag", "flags"} & set(words):
        form = DRAWING
    noun = form.removeprefix("{} ")
    if noun != form:  # the words stand before the noun: without the noun's own, as "button" of "blue button"
        nouns = noun.split()
        told = with_article(" ".join([*(w for w in words if w not in nouns), *nouns]))
    else:
        told = form.format(with_article(" ".join(words)) if form == DRAWING else " ".join(words))
    return f"{told}, {group}" if group else told


def card_words(stem: str) -> list[str]:
    """Words of a playing card's name, such as ornamental_d_10; none of other names."""
    match = re.fullmatch(r"(\w+)_(c|d|h|s|jk)_(\w+)", stem)
    if not match or (match[3] not in RANKS and match[2] != "jk"):
        return []
    style, suit, rank = match.groups()
    return [style, "joker"] if suit == "jk" else [style, RANKS[rank], "of", SUITS[suit]]


def told_words(stem: str, texts: Mapping[str, str]) -> list[str]:
    """The words that tell what a drawing is of, in English as far as the glossary goes."""
    title = re.sub(r"^clipart by .* - | - rpg map.*$", "", texts.get("Title", ""), flags=re.IGNORECASE)
    name_words, title_words = split_words(stem), split_words(title)
    told, titled = telling(without_author(name_words, split_words(texts.get("Author", "")))), telling(title_words)
    names = telling(name_words)
    of_series = not names and re.search(r"theme|collection|icon|clipart", title, re.IGNORECASE)
    if titled and not of_series and all(t.startswith(n) for t, n in zip(titled, names, strict=False)):
        told = titled
    return told[:MOST_WORDS] or [w for w in name_words if len(w) > 1][:MOST_WORDS]


def telling(words: Sequence[str]) -> list[str]:
    """The words among some that tell something, each once, in English as far as the glossary goes."""
    english = [e for word in words for e in ENGLISH.get(word, word).split()]
    return list(dict.fromkeys(w for w in english if is_word(w)))


def shared(word: str) -> str:
    """What two forms of a word have in common, as far as their beginning tells."""
    return word[:4]


def split_words(text: str) -> list[str]:
    """Lower-case words of a name or title: parted at signs, digits and capitals."""
    text = re.sub(r"\([^)]*@[^)]*\)", " ", text)
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return re.findall(r"[^\W\d_]+", text.lower())


def without_author(words: Sequence[str], author: Sequence[str]) -> list[str]:
    """Words of a name less the author's at its end, the last of which may be cut off."""
    end = len(words)
    while end > 1 and any(a.startswith(words[end - 1]) or words[end - 1].startswith(a) for a in author if len(a) > 1):
        end -= 1
    return list(words[:end])


def is_word(word: str) -> bool:
    """Whether something may be a word: of some length, with a vowel, and no series' or format's name."""
    if word in KNOWN_SHORT:
        return True
    return len(word) > 2 and word not in NOISE and bool(re.search(r"[aeiouyàèéìòù]", word))


def plain(folder: str) -> str:
    return " ".join(split_words(folder))


def with_article(told: str) -> str:
    """With "a" or "an" before it, where it is not many."""
    last = told.split()[-1]
    many = last.endswith(("s", "men", "people")) and not last.endswith(("ss", "us", "is"))
    return told if many else ("an " if told[0] in "aeiou" else "a ") + told
