"""Tables of what `evaluation.retrieval` finds."""

import math
from collections.abc import Sequence

from memorization.evaluation.quality import INCEPTION, cell
from memorization.evaluation.retrieval import BACKGROUND, Retrieval
from memorization.evaluation.retrieval_sets import MMD_PICTURES
from memorization.evaluation.retrieval_summary import PERCENTILES
from memorization.evaluation.statistics import Result, interval_text
from memorization.similarity.complexity import MEASURES, SIDE
from memorization.similarity.neighbourhoods import NEIGHBOURS
from memorization.similarity.pixels import COPY_SIMILARITY
from memorization.tables import Table


def similarity_table(results: Sequence[Result], retrieval: Retrieval) -> Table:
    """How similar the most similar training picture is."""
    names = {"mean": "mean", "sd": "sd", **{f"p{p}": f"{p}th percentile" for p in PERCENTILES}}
    names["above_cut"] = f"above {COPY_SIMILARITY}"
    rows = [[called(r), r["prompts"], r["pictures"], *(interval_text(r[name]) for name in names)] for r in results]
    note = f"To the most similar of {retrieval.index.num_rows} training pictures; the background to the most similar "
    note += "other one. Different pictures of a set may well be above the cut: compare with the background."
    headers = ["of", "prompts", "pictures", *names.values()]
    return Table("Similarity to the training set", headers, rows, note)


def called(result: Result) -> str:
    return f"{result['of']} (control)" if result["is_control"] else result["of"]


def complexity_table(results: Sequence[Result]) -> Table:
    """Whether simple pictures are matched more closely."""
    rows = [[r["of"], MEASURES[r["measure"]], r["prompts"], interval_text(r["rho"]), p_text(r["p"])] for r in results]
    note = f"Spearman's correlation over the means of prompts; pictures cropped and resized to {SIDE} x {SIDE}. Below "
    note += "0: the simpler the matched training picture, the more similar the generation."
    headers = ["of", "complexity of the match", "prompts", "rank correlation with similarity", "p"]
    return Table("Complexity of matched training pictures", headers, rows, note)


def p_text(p: float) -> str:
    return "-" if math.isnan(p) else f"{p:.2g}"


def duplicates_table(results: Sequence[Result], retrieval: Retrieval) -> Table:
    """Whether duplicated pictures are matched more closely."""
    rows = [[r["of"], r["match"], r["prompts"], r["pictures"], interval_text(r["mean"])] for r in results]
    note = f"Duplicated: held several times by the data set's own word, or similar by {retrieval.settings.duplicates:g}"
    note += " or more to another training picture."
    headers = ["of", "matched training picture", "prompts", "pictures", "mean similarity"]
    return Table("Duplicated training pictures", headers, rows, note)


def sets_table(results: Sequence[Result], retrieval: Retrieval) -> Table:
    """How far sets of generations are from the training set."""
    columns = {"precision": "precision", "recall": "recall", "mmd": "MMD", **INCEPTION}
    columns = {name: text for name, text in columns.items() if any(name in r for r in results)}
    rows = [[called(r), r["pictures"], *(cell(r.get(name)) for name in columns)] for r in results]
    note = f"Against {len(retrieval.drawn)} training pictures. Precision: generations within reach of a training "
    note += f"picture's {NEIGHBOURS} nearest; recall: training pictures within reach of a generation's, which grows "
    note += f"with their number. MMD times 1000, of at most {MMD_PICTURES} pictures, without pairs of one caption; "
    note += "lower: more alike."
    return Table("Sets as wholes", ["of", "pictures", *columns.values()], rows, note)


def clip_table(results: Sequence[Result]) -> Table:
    """How well pictures show their prompts."""
    rows = [[r["of"], r["prompts"], r["pictures"], interval_text(r["clip"])] for r in results]
    return Table("CLIP similarity to the prompt", ["of", "prompts", "pictures", "CLIP"], rows)


def background_note(retrieval: Retrieval) -> str:
    """How the background was made."""
    if retrieval.background is None:
        return "no background: the index has a single picture"
    count, total = len(retrieval.background.prompts), retrieval.index.num_rows
    drawn = f", {count} drawn of {total}" if count == retrieval.settings.background < total else ""
    return f"background: {BACKGROUND}, each to the most similar other one{drawn}"
