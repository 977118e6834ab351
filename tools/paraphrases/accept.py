"""What is kept of the rewordings it is offered: parsing of answers, comparison, acceptance.

Two similarities in [0, 1], both higher = nearer to the caption, both of the text alone (no model):

wording_similarity   share of words in the same order (difflib's ratio over folded words). Above the upper
                     bound a rewording is the caption again in all but a word, and tells semantic search
                     nothing new. A reordered or framed caption passes.
subject_similarity   cosine of the character trigrams inside content words, in any order. Below the lower
                     bound a rewording is about something else. It reads letters, not meaning: inflections
                     count in part and synonyms not at all. Free rewordings come out near 0.5, and a caption
                     with one noun exchanged, which is about something else, at 0.6 to 0.8 and passes.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from difflib import SequenceMatcher

READ_WORDS = 77  # Stable Diffusion's text encoder reads no more tokens, so later words are not compared
MEDIA = ("picture", "image", "depiction", "scene", "view")
STOP_WORDS = frozenset(
    "a an the one this that these those some of in on at by to for from with and or as is are was were be it its his "
    "her their into near over under while which who there has have shown shows showing seen featuring features "
    "depicting depicts photo photograph photos pictures images caption".split()
) | frozenset(MEDIA)
OUTCOMES = ("kept", "duplicate", "too similar", "too different")
NUMBER_OR_BULLET = re.compile(r"^(?:[-*•–—]|\(?\d{1,2}[.):])\s+")
LABEL = re.compile(r"^(?:(?:new|rewritten|reworded)\s+)?(?:caption|paraphrase|rewording|answer)\s*\d*\s*:\s*", re.I)
QUOTED = re.compile(r"^[\"'“‘`«](.+)[\"'”’`»][.,]?$")


def fold(text: str) -> list[str]:
    """Words of a text for comparison, with width, case, punctuation and white space folded away."""
    text = re.sub("['’]", "", unicodedata.normalize("NFKC", text).casefold())
    return "".join(c if counts_as_letter(c) else " " for c in text).split()


def counts_as_letter(character: str) -> bool:
    """Letters and digits of any script, marks that belong to them, and symbols such as emoji."""
    return character.isalnum() or unicodedata.category(character) in ("Mn", "Mc", "Me", "So")


def content_words(words: Sequence[str]) -> Sequence[str]:
    """The words that say what a caption is about; all of them where none does."""
    return [w for w in words if w not in STOP_WORDS] or words


def content_trigrams(words: Sequence[str]) -> Counter[str]:
    return Counter(f" {w} "[i : i + 3] for w in content_words(words) for i in range(len(w)))


def subject_similarity(caption: str, text: str) -> float:
    """Cosine of the counts of character trigrams in the content words, in any order."""
    a, b = (content_trigrams(fold(t)[:READ_WORDS]) for t in (caption, text))
    norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
    return sum(a[k] * b[k] for k in a.keys() & b.keys()) / norm if norm else 0.0


def wording_similarity(caption: str, text: str) -> float:
    """Twice the number of words that both have in the same order, over the number of words of both."""
    a, b = (fold(t)[:READ_WORDS] for t in (caption, text))
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


class Paraphrases:
    """Collects up to `num` paraphrases of one caption and counts what became of each source's candidates.

    Attributes:
        texts: the paraphrases so far.
        counts: number of candidates by outcome, by source.
    """

    def __init__(self, caption: str, num: int, min_similarity: float, max_similarity: float):
        self.caption, self.num = caption, num
        self.min_similarity, self.max_similarity = min_similarity, max_similarity
        self.words = frozenset(fold(caption))
        self.seen = {tuple(fold(caption))}
        self.texts: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}

    @property
    def missing(self) -> int:
        return self.num - len(self.texts)

    def offer(self, candidates: Iterable[str], source: str, foreign: Set[str] = frozenset()) -> None:
        """Keep what is acceptable, in order, until there are enough.

        Args:
            candidates: texts.
            source: name under which they are counted.
            foreign: words that make a text be about something else, unless the caption has them as well.
        """
        counts = self.counts.setdefault(source, dict.fromkeys(OUTCOMES, 0))
        for text in candidates:
            if not self.missing:
                return
            outcome = self.judge(text, foreign - self.words)
            counts[outcome] += 1
            if outcome == "kept":
                self.texts.append(text)

    def judge(self, text: str, foreign: Set[str]) -> str:
        """One of `OUTCOMES`."""
        key = tuple(fold(text))
        if key in self.seen:
            return "duplicate"
        self.seen.add(key)
        if foreign.intersection(key) or subject_similarity(self.caption, text) < self.min_similarity:
            return "too different"
        if wording_similarity(self.caption, text) > self.max_similarity:
            return "too similar"
        return "kept"


def parse_answer(answer: str, finished: bool = True) -> list[str]:
    """Captions in a chat model's answer: one, or a list with numbers, bullets, labels or quotes.

    Lines that announce a list are left out, and so is the last line of an answer that was cut off.
    """
    lines = [line.strip() for line in answer.split("\n") if line.strip()]
    if not finished:
        lines = lines[:-1]
    pieces = [piece for line in lines for piece in items_of(line)]
    captions = [clean_line(piece) for piece in pieces if not piece.endswith(":")]
    return [c for c in captions if fold(c)]


def items_of(line: str) -> list[str]:
    """The entries of a line: small models put a whole list on one."""
    return re.split(r"\s(?=\d{1,2}[.)]\s)", line) if line[0].isdigit() else [line]


def clean_line(line: str) -> str:
    """A caption without what chat models put around it."""
    text = NUMBER_OR_BULLET.sub("", " ".join(line.split()))
    text = LABEL.sub("", re.sub(r"\*\*|`", "", text))
    quoted = QUOTED.match(text.strip())
    return (quoted[1] if quoted else text).strip()
