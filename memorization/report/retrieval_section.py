"""The section on retrieval: what eval_mem.py retrieval writes."""

import json
from collections.abc import Iterator, Sequence
from functools import partial

from memorization.evaluation.retrieval import Retrieval, RetrievalSettings, Source, retrieve
from memorization.evaluation.retrieval_sets import summarize_sets
from memorization.evaluation.retrieval_summary import (
    summarize_clip,
    summarize_complexity,
    summarize_duplicates,
    summarize_similarity,
)
from memorization.evaluation.retrieval_tables import (
    background_note,
    clip_table,
    complexity_table,
    duplicates_table,
    sets_table,
    similarity_table,
)
from memorization.evaluation.statistics import INTERVALS, USUAL, BootstrapSettings
from memorization.report.retrieval_figures import (
    complexity_figure,
    duplicates_figure,
    gallery_figure,
    histogram_figure,
    most_like_training,
)
from memorization.report.section import Figure, Section
from memorization.similarity.descriptors import ClipSimilarity
from memorization.similarity.inception import InceptionDistances
from memorization.similarity.index.describers import Describer
from memorization.similarity.index.split import DOT
from memorization.similarity.index.stored import StoredIndex
from memorization.tables import plain

LINES = 40  # generations in one picture of the gallery


def retrieval_section(
    sources: Sequence[Source],
    index: StoredIndex,
    describer: Describer,
    clip: ClipSimilarity | None = None,
    settings: RetrievalSettings | None = None,
    bootstrap: BootstrapSettings = USUAL,
    device: str = "cpu",
    inception: InceptionDistances | None = None,
) -> Section:
    """How similar generations are to a training set, and to what of it; see `retrieve`.

    Args:
        inception: gives FID and KID as well.
    """
    found = retrieve(sources, index, describer, clip, settings, device)
    similarity, complexity = summarize_similarity(found, bootstrap), summarize_complexity(found)
    duplicates, clips = summarize_duplicates(found, bootstrap), summarize_clip(found, bootstrap)
    sets = summarize_sets(found, inception)
    tables = [similarity_table(similarity, found), complexity_table(complexity), duplicates_table(duplicates, found)]
    tables.append(sets_table(sets, found))
    told = describe(found)
    return Section(
        topic="retrieval",
        title="Retrieval",
        text=f"{INTERVALS}. {told}.",
        tables=[*tables, *([clip_table(clips)] if clips else [])],
        figures=[
            Figure("similarity", partial(histogram_figure, found), "Generations and training pictures."),
            Figure("complexity", partial(complexity_figure, found), "Complexity of the matched training picture."),
            Figure("duplicated", partial(duplicates_figure, duplicates), "Duplicated against single matches."),
            *gallery(found),
        ],
        results={
            **{"similarity": similarity, "complexity": complexity, "duplicates": duplicates},
            **{"sets": sets, "clip": clips},
        },
        notes=[
            *(INTERVALS, told, f"training set: {index.settings['dataset']}", background_note(found)),
            "" if clip is None else f"CLIP: {clip.description}",
            "" if inception is None else f"FID and KID: {inception.description}",
        ],
        files={"per_image.jsonl": "".join(lines(found))},
    )


def describe(found: Retrieval) -> str:
    """What has to stand beside the numbers."""
    settings = found.settings
    kind = "cosine" if settings.similarity == DOT else f"{settings.similarity} of {settings.chunks} chunks"
    return f"{found.index.describe()}; {kind}" + ("; approximate search" if settings.faiss else "")


def gallery(found: Retrieval) -> Iterator[Figure]:
    """Pictures of the generations that are most like a training picture."""
    shown = most_like_training(found, found.settings.gallery)
    for number, start in enumerate(range(0, len(shown), LINES)):
        some = shown[start : start + LINES]
        caption = "Generations (left) with their most similar training pictures."
        yield Figure(f"gallery_{number}", partial(gallery_figure, found, some), caption)


def lines(found: Retrieval) -> Iterator[str]:
    """A line of JSON for every generation: its most similar training picture."""
    for some in found.matched:
        for place, prompt in enumerate(some.prompts):
            entry = found.entries[int(some.rows[place, 0])]
            line = {"of": some.name, "prompt": prompt, "similarity": float(some.nearest[place])}
            line |= {"caption": entry.caption, "picture": str(entry.picture), "index": entry.index}
            line |= {"rows": some.rows[place].tolist(), "similarities": some.similarity[place].tolist()}
            yield json.dumps(plain(line)) + "\n"
