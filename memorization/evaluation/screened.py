"""What a screen found, at a glance: the prompts with the highest scores."""

import heapq
from pathlib import Path

import numpy as np

from memorization.errors import InputError
from memorization.files.column_rows import SCORE
from memorization.files.columns import row_groups
from memorization.scores import score_label
from memorization.tables import Table

SHOWN = 10


def screen_table(path: Path, shown: int = SHOWN) -> Table:
    """The prompts of a screen's file with the highest means over their images; read a row group at a time.

    Raises:
        InputError: if there are none.
    """
    highest: list[tuple[float, int, int, str]] = []
    total, count, num_images = 0.0, 0, 0
    for table in row_groups(path):
        num_images = table.schema.field(SCORE).type.list_size
        means = np.asarray(table[SCORE].combine_chunks().flatten(), float).reshape(-1, num_images).mean(1)
        for k in np.argsort(-means, kind="stable")[:shown].tolist():
            entry = (float(means[k]), -(count + k), table["index"][k].as_py(), table["prompt"][k].as_py())
            heapq.heappush(highest, entry)
            if len(highest) > shown:
                heapq.heappop(highest)
        total, count = total + float(means.sum()), count + len(means)
    if not count:
        raise InputError(f"{path} has no rows: the data set holds no prompts from --start on")
    rows = [[index, score, prompt[:60]] for score, _, index, prompt in sorted(highest, reverse=True)]
    told = f"{count} prompts of {num_images} images each, mean {total / count:.3f}; higher = memorized"
    return Table("Screen", ["index", score_label(SCORE, 1), "prompt"], rows, told)
