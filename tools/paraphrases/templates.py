"""Rule-based rewordings of captions, for where there is no language model or it yields too few.

The rules are English and know no grammar: they move, drop and frame what stands between commas and
prepositions, and swap words from a short table. The same caption always gives the same list. What is too
near to the caption or too far from it is for the caller to refuse.
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from tools.paraphrases.accept import MEDIA, fold

SYNONYMS = """
small little tiny / large big huge / woman lady / women ladies / man gentleman / men gentlemen / child kid
children kids / baby infant / house home / car automobile / road street / movie film / photo photograph
painting artwork / drawing sketch / poster print / mug cup / rug carpet / stamp label / beautiful lovely
pretty attractive / sofa couch / forest woods / sea ocean / stone rock / bike bicycle / center middle
background backdrop / dress gown / purple violet / vintage retro / cute adorable / modern contemporary
ancient age-old / sunset dusk / quick fast / rapid swift / silent quiet / black dark / happy cheerful
gift present / wallpaper backdrop
"""
GROUPS = [group.split() for line in SYNONYMS.strip().splitlines() for group in line.split(" / ")]
SWAPS = {word: [w for w in group if w != word] for group in GROUPS for word in group}
# Things that carry a picture: "the lucky tiger mug" is a mug with a lucky tiger on it.
THINGS = (
    "poster print mug cup rug carpet album cover kite sail stamp label shirt t-shirt card calendar book podcast logo "
    "wallpaper canvas painting photo sticker banner case pillow bag sign map"
).split()
PREPOSITIONS = "with on in at by near under over above below behind beside between from for against while".split()
BORDER = re.compile(rf"[,;]\s+|\s+(?=(?:{'|'.join(PREPOSITIONS)})\s)|\s+and\s+(?=(?:an?|the|one|two)\s)", re.I)
PICTURE = "|".join(("photo", "photograph", *MEDIA))
OPENING = re.compile(rf"^(?:(?:an?|the|one|this)\s+)?(?:{PICTURE})s?\s+(?:of|showing)\s+", re.I)
QUOTE = re.compile(r"[\"“”„«»]|(?<!\w)['‘’]|['‘’](?!\w)")
TITLE_BREAK = re.compile(r"\s+[-–—|]\s+|:\s+|\s*\|\s*")
SMALL_WORDS = {"a", "an", "the", "one", "two", "this", *PREPOSITIONS}
FRAMES = (
    "{a} {m} of {{}}",
    "{a} {m} showing {{}}",
    "{{}} in {a} {m}",
    "one {m} with {{}}",
    "{{}} as {a} {m}",
    "the {m} shows {{}}",
)
ENDINGS = ("{{}}, seen in {a} {m}", "{a} {m}: {{}}", "{{}}, one {m}")
MAX_BORDERS = 8
LONG = 24  # words from which a caption without commas or prepositions is cut anyway


def template_paraphrases(caption: str) -> list[str]:
    """Rewordings of a caption without repetitions, the plainer ones first."""
    core = bare(caption)
    phrases = unique([*carried(core), *possessive(core), core, *swapped(core)])
    moved = unique(m for p in (core, *swapped(core)[-1:]) for m in rearranged(p))
    shorter = shortened(caption, core)
    frames, endings = in_media(FRAMES), in_media(ENDINGS)
    framed = list(turn_about(frames, phrases))
    rest = [frame.format(start_small(p)) for p in shorter for frame in frames]
    rest += [frame.format(start_small(m)) for m in (*moved, core) for frame in endings]
    plain = [*carried(core), *possessive(core), *moved, *swapped(core), core]
    texts = unique([*plain, *framed[:10], *shorter, *framed[10:], *rest])
    return [text for text in texts if fold(text) != fold(caption)]


def turn_about(frames: Sequence[str], phrases: Sequence[str]) -> Iterator[str]:
    """Every phrase in every frame, neighbours being of different kinds."""
    for shift in range(len(phrases)):
        for k, frame in enumerate(frames):
            yield frame.format(start_small(phrases[(k + shift) % len(phrases)]))


def unique(texts: Iterable[str]) -> list[str]:
    """The texts without repetitions, white space made single."""
    return list(dict.fromkeys(" ".join(t.split()) for t in texts))


def in_media(patterns: Sequence[str]) -> list[str]:
    """The patterns with each noun for a picture, neighbours differing in both pattern and noun."""
    count = len(MEDIA)
    pairs = [(p, MEDIA[(k + shift) % count]) for shift in range(count) for k, p in enumerate(patterns)]
    return [p.format(m=m, a=article(m)) for p, m in pairs]


def bare(caption: str) -> str:
    """The caption without quotes, final punctuation and an opening like "a picture of"."""
    text = " ".join(QUOTE.sub("", caption).split()).rstrip(".!?,;: ")
    return OPENING.sub("", text) or text or caption


def article(phrase: str) -> str:
    return "an" if phrase[:1].lower() in "aeiou" else "a"


def start_small(phrase: str) -> str:
    """The phrase for the middle of a sentence: names keep their capital."""
    first = phrase.split(maxsplit=1)[0]
    return phrase[0].lower() + phrase[1:] if first.lower() in SMALL_WORDS else phrase


def carried(core: str) -> list[str]:
    """A picture on a thing, said five ways: "the lucky tiger mug", "a mug of the lucky tiger" and so on."""
    words = re.sub(r"\s+(?:design|designs|art)$", "", core, flags=re.I).split()
    of = re.fullmatch(r"(?:(?:an?|the|one)\s+)?(\S+) of (?:(?:an?|the)\s+)?(.+)", " ".join(words), re.I)
    if of and of[1].lower() in THINGS and not BORDER.search(of[2]):
        return [f"the {of[2]} {of[1]}", f"the {of[2]} on {article(of[1])} {of[1]}", f"one {of[1]} showing the {of[2]}"]
    if words[0].lower() in SMALL_WORDS:
        words = words[1:]
    if not 2 <= len(words) <= 6 or words[-1].lower() not in THINGS or BORDER.search(core) or "'" in core:
        return []
    thing, subject = words[-1].lower(), " ".join(words[:-1])
    a, an = article(thing), article(subject)
    return [
        f"{a} {thing} of the {subject}",
        f"{thing} with {an} {subject}",
        f"the {subject} on {a} {thing}",
        f"{an} {subject} printed on {a} {thing}",
        f"one {thing} showing the {subject}",
    ]


def possessive(core: str) -> list[str]:
    """ "The farmer's old house" as "the old house of the farmer"."""
    match = re.fullmatch(r"((?:the|an?)\s+)?([^,;]+?)['’]s\s+([^,;]+)", core, re.I)
    return [f"the {match[3]} of {(match[1] or '').lower()}{match[2]}"] if match else []


def swapped(core: str) -> list[str]:
    """One synonym at a time, then every word that has one."""
    hits = [m for m in re.finditer(r"\b(?:(an?)(\s+))?([a-z-]+)\b", core, re.I) if m[3].lower() in SWAPS]
    texts = [core[: m.start()] + swap(m, k) + core[m.end() :] for m in hits for k in range(len(SWAPS[m[3].lower()]))]
    if len(hits) > 1:
        pieces, end = [], 0
        for m in hits:
            pieces += [core[end : m.start()], swap(m, 0)]
            end = m.end()
        texts.append("".join(pieces) + core[end:])
    return texts


def swap(match: re.Match[str], k: int) -> str:
    """The match's word replaced by its k-th synonym, with its capital and the article before it set right."""
    word, synonym = match[3], SWAPS[match[3].lower()][k]
    synonym = synonym.capitalize() if word[0].isupper() else synonym
    if not match[1]:
        return synonym
    return match[1][0] + article(synonym)[1:] + match[2] + synonym


def rearranged(text: str) -> list[str]:
    """What follows a comma, a preposition or a title's break, put first."""
    texts = []
    for head, separator, tail in halves(text):
        first = tail.split(maxsplit=1)
        if first[0].lower() == "with" and len(first) > 1:
            texts.append(f"{first[1]} and {start_small(head)}")
        joint = " and " if separator.strip() == "and" else ", "
        texts.append(f"{tail}{joint}{start_small(head)}")
    return texts


def halves(text: str) -> list[tuple[str, str, str]]:
    """The text cut in two at each border, as (head, separator, tail)."""
    borders = [*TITLE_BREAK.finditer(text), *BORDER.finditer(text)][:MAX_BORDERS]
    cuts = [(text[: m.start()], m[0], text[m.end() :]) for m in borders]
    words = text.split()
    if not cuts and len(words) >= LONG:
        places = (len(words) * k // 4 for k in (2, 1, 3))
        cuts = [(" ".join(words[:n]), " ", " ".join(words[n:])) for n in places]
    return [(head, separator, tail) for head, separator, tail in cuts if fold(head) and fold(tail)]


def shortened(caption: str, core: str) -> list[str]:
    """The caption without what it quotes, and each half of it that can stand alone."""
    texts = [bare(re.sub(r"[\"“][^\"“”]*[\"”]", " ", caption))]
    texts += [half for head, _, tail in halves(core) for half in (head, tail)]
    return unique(t for t in texts if len(fold(t)) >= 3 and fold(t)[0] not in PREPOSITIONS)
