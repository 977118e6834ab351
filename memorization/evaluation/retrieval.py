"""What of a training set do generations look like? Every generation's most similar training pictures, in an index.

Somepalli et al. (CVPR and NeurIPS 2023). Beside the generations stands the background: training pictures and the most
similar other one of each, which says how alike different pictures of the set are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.errors import InputError, input_errors
from memorization.finished_runs import read_run
from memorization.similarity.appearance import PictureSet, pictures_of_run
from memorization.similarity.complexity import complexity
from memorization.similarity.descriptors import ClipSimilarity
from memorization.similarity.index.approximate import search_approximate
from memorization.similarity.index.describers import Describer
from memorization.similarity.index.entries import Entry, entries_of
from memorization.similarity.index.search import most_similar, to_nearest_other
from memorization.similarity.index.split import DOT, similarity_called
from memorization.similarity.index.stored import StoredIndex

NEIGHBOURS = 10  # training pictures of every generation
PAIRS = 1000  # training pictures that CLIP compares with their captions, at most
BACKGROUND = "training pictures among themselves"

Pairs = tuple[np.ndarray, Sequence[str]]  # CLIP similarity of pictures and their captions, (pairs,), and the captions


@dataclass(frozen=True)
class RetrievalSettings:
    """How generations are compared with a training set.

    Attributes:
        similarity, chunks: of descriptors, see `similarity.index.split`.
        background: training pictures that are compared with the others, drawn where there are more.
        duplicates: similarity to another training picture from which one counts as duplicated.
        gallery: generations that are shown with their most similar training pictures.
        faiss: whether the approximate index is searched.
    """

    similarity: str = DOT
    chunks: int = 8
    background: int = 10_000
    duplicates: float = 0.9
    gallery: int = 20
    faiss: bool = False

    def __post_init__(self) -> None:
        if self.faiss and self.similarity != DOT:
            raise InputError(f"--faiss searches by {DOT} alone; leave --similarity {self.similarity} out")


@dataclass(frozen=True)
class Source:
    """Generations of a run or a folder.

    Attributes:
        pictures: what reads them.
        has_prompts: whether their texts are prompts, and not names of files.
        is_control: whether they are of what was never trained on.
    """

    pictures: PictureSet
    has_prompts: bool
    is_control: bool = False


@dataclass(frozen=True)
class Matched:
    """Pictures with their most similar training pictures.

    Attributes:
        name: of the run, the folder, or the background.
        prompts: of each picture, or its name where it has none.
        descriptors: unit vectors, float32 (pictures, dim).
        similarity: to the most similar, float32 (pictures, k), the highest first.
        rows: of those in the index, (pictures, k).
        clip: CLIP similarity of picture and prompt, (pictures,); None without CLIP or prompts.
        is_control: as of `Source`.
        places: part of the source and place in it, of each picture.
    """

    name: str
    prompts: Sequence[str]
    descriptors: np.ndarray
    similarity: np.ndarray
    rows: np.ndarray
    clip: np.ndarray | None = None
    is_control: bool = False
    places: Sequence[tuple[int, int]] = ()

    @property
    def nearest(self) -> np.ndarray:
        """Similarity to the most similar, (pictures,)."""
        return self.similarity[:, 0]


@dataclass(frozen=True)
class Retrieval:
    """What was found.

    Attributes:
        index, settings: what was searched, and how.
        sources: generations and controls, in the order of `matched`.
        matched: with their most similar training pictures.
        drawn: rows that stand for the training set, all where they are not too many, (drawn,).
        drawn_names: their captions, or files where they have none.
        background: those training pictures with the most similar other one; None of a single picture.
        pairs: training pictures and their captions; None without CLIP or captions.
    """

    index: StoredIndex
    settings: RetrievalSettings
    sources: Sequence[Source]
    matched: Sequence[Matched]
    drawn: np.ndarray
    drawn_names: Sequence[str]
    background: Matched | None
    pairs: Pairs | None

    @cached_property
    def best_rows(self) -> list[int]:
        """Training pictures that are the most similar one of a generation or control."""
        return sorted({int(row) for some in self.matched for row in some.rows[:, 0]})

    @cached_property
    def entries(self) -> dict[int, Entry]:
        """What those are."""
        return self.index.entries(self.best_rows)

    @cached_property
    def complexities(self) -> dict[int, dict[str, float]]:
        """How complex those are, by row.

        Raises:
            InputError: if one is not there any more.
        """
        with tqdm(self.entries.items(), desc="complexity", unit="picture") as bar:
            return {row: complexity(read_image(entry.picture)) for row, entry in bar}

    @cached_property
    def duplicated(self) -> dict[int, bool]:
        """Whether those are in the training set more than once, as it says itself or as another is that similar."""
        rows = np.array(self.best_rows)
        values = Search(self.index, self.settings).to_others(rows)[0]
        is_near = (values >= self.settings.duplicates).tolist()
        return {row: near or self.entries[row].repeats > 1 for row, near in zip(self.best_rows, is_near, strict=True)}


@dataclass(frozen=True)
class Search:
    """An index and how it is searched."""

    index: StoredIndex
    settings: RetrievalSettings
    device: str = "cpu"

    @property
    def count(self) -> int:
        """Pictures that can be found."""
        return self.index.num_rows - self.index.header["unreadable"]

    def drawn_rows(self) -> np.ndarray:
        """Rows that stand for the training set, as many as the settings allow, (drawn,)."""
        rows, limit = self.index.readable_rows(), self.settings.background
        return rows if len(rows) <= limit else np.sort(np.random.default_rng(0).choice(rows, limit, replace=False))

    def nearest(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows of the most similar pictures, (queries, k) each."""
        k = min(NEIGHBOURS, self.count)
        if self.settings.faiss:
            return search_approximate(self.index, descriptors, k)
        with input_errors():
            similarity = similarity_called(self.settings.similarity, self.settings.chunks, self.index.dim)
        return most_similar(self.index, descriptors, k, similarity, device=self.device)

    def to_others(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarity to the most similar other picture, and its row, (rows,) each."""
        if self.settings.faiss:
            values, found = search_approximate(self.index, self.index.descriptors(rows), 2)
            place = (found[:, 0] == rows).astype(int)[:, None]  # it is its own most similar, or a copy of it is
            return np.take_along_axis(values, place, 1)[:, 0], np.take_along_axis(found, place, 1)[:, 0]
        with input_errors():
            similarity = similarity_called(self.settings.similarity, self.settings.chunks, self.index.dim)
        return to_nearest_other(self.index, rows, similarity, self.device)


def read_source(path: Path, is_control: bool = False) -> Source:
    """Generations of a finished run, or of any folder or data set of pictures.

    Raises:
        InputError: if it is neither.
    """
    if path.suffix == ".jsonl":
        return Source(pictures_of_run(read_run(path)), True, is_control)
    entries = list(entries_of(str(path)))
    has_prompts = all(entry.caption for entry in entries)
    parts = [(entry.caption if has_prompts else str(entry.picture), Reader(entry)) for entry in entries]
    return Source(PictureSet(path.name, parts), has_prompts, is_control)


@dataclass(frozen=True)
class Reader:
    """Reads the picture of an entry, uint8 (1, height, width, 3)."""

    entry: Entry

    def __call__(self) -> np.ndarray:
        return read_image(self.entry.picture)[None]


def retrieve(
    sources: Sequence[Source],
    index: StoredIndex,
    describer: Describer,
    clip: ClipSimilarity | None = None,
    settings: RetrievalSettings | None = None,
    device: str = "cpu",
) -> Retrieval:
    """Compare generations, and the training pictures themselves, with a training set.

    Args:
        describer: what the index was made with.

    Raises:
        InputError: if the descriptor is another, two sources have one name, or pictures cannot be read.
    """
    settings = settings or RetrievalSettings()
    index.refuse_other(describer.identity, "descriptors of different ones do not compare")
    names = [source.pictures.name for source in sources]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two of the runs and folders are called {twice}; give each a name of its own")
    search = Search(index, settings, device)
    matched = [match(source, search, describer, clip) for source in sources]
    rows = search.drawn_rows()
    entries = index.entries(rows)
    names = [entries[row].caption or str(entries[row].picture) for row in rows.tolist()]
    pairs = None if clip is None else training_pairs(entries.values(), clip)
    background = match_background(search, rows, names)
    return Retrieval(index, settings, sources, matched, rows, names, background, pairs)


def match(source: Source, search: Search, describer: Describer, clip: ClipSimilarity | None) -> Matched:
    """All pictures of a source with their most similar training pictures."""
    prompts, places = list[str](), list[tuple[int, int]]()
    descriptors, scores = list[np.ndarray](), list[float]()
    with tqdm(source.pictures.parts, desc=source.pictures.name, unit="prompt") as bar:
        for part, (prompt, read) in enumerate(bar):
            images = read()
            descriptors.append(describer(list(images)))
            if clip is not None and source.has_prompts:
                scores += clip(images, prompt)
            prompts += [prompt] * len(images)
            places += [(part, k) for k in range(len(images))]
    whole = np.concatenate(descriptors)
    values, rows = search.nearest(whole)
    known = np.array(scores) if scores else None
    return Matched(source.pictures.name, prompts, whole, values, rows, known, source.is_control, places)


def match_background(search: Search, rows: np.ndarray, names: Sequence[str]) -> Matched | None:
    """Training pictures with the most similar other one; None of a single picture."""
    if search.count < 2:
        return None
    values, nearest = search.to_others(rows)
    return Matched(BACKGROUND, names, search.index.descriptors(rows), values[:, None], nearest[:, None])


def training_pairs(entries: Iterable[Entry], clip: ClipSimilarity) -> Pairs | None:
    """CLIP similarity of training pictures to their captions, the first `PAIRS` that have one; None without any."""
    some = [entry for entry in entries if entry.caption][:PAIRS]
    with tqdm(some, desc="training pairs", unit="picture") as bar:
        scores = [clip(read_image(entry.picture)[None], entry.caption)[0] for entry in bar]
    return (np.array(scores), [entry.caption for entry in some]) if some else None
