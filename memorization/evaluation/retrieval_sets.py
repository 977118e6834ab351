"""Generations as a set beside the training set as a set: precision and recall, MMD of descriptors, FID and KID.

Not of single copies: a model that gives the training pictures back and nothing else has a perfect precision, and so
has one that gives other pictures of their kind. Controls, which were never trained on, say what is usual.
"""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from memorization.data.pictures import read_image
from memorization.evaluation.retrieval import Matched, Retrieval
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure, Result
from memorization.similarity.cmmd import FeatureSet, cmmd, jackknife_interval, kernel_sums, leave_one_out
from memorization.similarity.inception import InceptionDistances
from memorization.similarity.neighbourhoods import NEIGHBOURS, are_covered, ball_edges

MMD_PICTURES = 1000  # of either set, at most: its sums are of pairs of prompts
NOT_DEFINED: Measure = {"value": float("nan"), "low": float("nan"), "high": float("nan")}


def summarize_sets(retrieval: Retrieval, inception: InceptionDistances | None = None) -> list[Result]:
    """Precision, recall, MMD and, with Inception, FID and KID of every source against the drawn training pictures.

    Raises:
        InputError: if pictures are not there any more.
    """
    training = FeatureSet(retrieval.index.descriptors(retrieval.drawn), retrieval.drawn_names)
    distances = {} if inception is None else inception_distances(retrieval, inception)
    enough = len(training.prompts) > NEIGHBOURS
    edges = ball_edges(training.features) if enough else np.empty(0)
    return [
        {"of": some.name, "is_control": some.is_control, "pictures": len(some.prompts)}
        | coverage(some, training, edges)
        | {"mmd": mmd(some, training)}
        | distances.get(some.name, {})
        for some in tqdm(retrieval.matched, desc="sets", unit="set")
    ]


def coverage(some: Matched, training: FeatureSet, edges: np.ndarray) -> dict[str, Measure]:
    """Precision and recall, each with its interval given the other set; NaN of sets that are too small.

    Args:
        edges: of the training pictures; none where they are too few.
    """
    found = {"precision": NOT_DEFINED, "recall": NOT_DEFINED}
    if len(edges):
        inside = are_covered(some.descriptors, training.features, edges)
        found["precision"] = share_measure(inside.astype(float), some.prompts)
    if len(some.descriptors) > NEIGHBOURS:
        reached = are_covered(training.features, some.descriptors, ball_edges(some.descriptors))
        found["recall"] = share_measure(reached.astype(float), training.prompts)
    return found


def mmd(some: Matched, training: FeatureSet) -> Measure:
    """Unbiased squared MMD of descriptors, times 1000, by CMMD's kernel; pairs of one caption are left out."""
    sums = kernel_sums(drawn(FeatureSet(some.descriptors, some.prompts)), drawn(training))
    value = cmmd(sums)
    low, high = jackknife_interval(value, leave_one_out(sums), sums)
    return {"value": value, "low": low, "high": high}


def drawn(features: FeatureSet) -> FeatureSet:
    """As many as `MMD_PICTURES`, drawn where there are more."""
    count = len(features.prompts)
    if count <= MMD_PICTURES:
        return features
    chosen = np.sort(np.random.default_rng(0).choice(count, MMD_PICTURES, replace=False))
    return FeatureSet(features.features[chosen], [features.prompts[k] for k in chosen])


def inception_distances(retrieval: Retrieval, inception: InceptionDistances) -> dict[str, dict[str, float]]:
    """FID and KID of every source by its name."""
    sets = {source.pictures.name: source.pictures for source in retrieval.sources}
    entries: Sequence = list(retrieval.index.entries(retrieval.drawn).values())
    with tqdm(entries, desc="Inception", unit="picture") as bar:
        return inception(sets, (read_image(entry.picture)[None] for entry in bar))
