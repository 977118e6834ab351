"""The section on near-duplicates within a training set: what tools/index_training_set.py --duplicates writes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from memorization.report.section import Section
from memorization.similarity.index.stored import StoredIndex
from memorization.tables import Table

SHOWN = 30  # groups in the table; the JSON file holds all


def duplicates_section(index: StoredIndex, groups: Sequence[np.ndarray], threshold: float) -> Section:
    """Groups of near-duplicates with their captions.

    Args:
        groups: of `similar_groups`, found at this threshold.
    """
    entries = index.entries(row for group in groups for row in group.tolist())
    found: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        some = [entries[row] for row in group.tolist()]
        captions = list(dict.fromkeys(entry.caption for entry in some))
        pictures = [
            {"row": row, "index": e.index, "caption": e.caption, "picture": str(e.picture)}
            for row, e in zip(group.tolist(), some, strict=True)
        ]
        found.append({"group": number, "pictures": len(group), "captions": len(captions), "members": pictures})
    rows = [[g["group"], g["pictures"], g["captions"], *first_of(g["members"][0])] for g in found[:SHOWN]]
    count = sum(len(group) for group in groups)
    note = f"{count} of {index.num_rows} pictures are in {len(groups)} groups of two or more that pairs with a cosine "
    note += f"of {threshold:g} or more connect."
    note += f" The {SHOWN} largest are shown." if len(groups) > SHOWN else ""
    table = Table("Near-duplicates", ["group", "pictures", "captions", "a caption", "a picture"], rows, note)
    results = {"threshold": threshold, "pictures": index.num_rows, "in_groups": count, "groups": found}
    return Section(
        topic="duplicates",
        title="Near-duplicates of the training set",
        text=index.describe(),
        tables=[table],
        results=results,
        notes=[index.describe(), f"{index.settings['dataset']}"],
    )


def first_of(member: dict[str, Any]) -> tuple[str, str]:
    """Caption and picture as cells of a table."""
    return member["caption"].replace("|", "/")[:60], member["picture"].replace("|", "/")
