"""An audit's page: the verdict first, with the pictures that come back beside what was generated."""

from collections.abc import Sequence
from functools import partial

import matplotlib.figure
import numpy as np

from memorization.audit.captions import TrainingSet
from memorization.audit.verdict import Returned, Verdict
from memorization.data.pictures import read_image
from memorization.evaluation.statistics import INTERVALS, Measure, interval_text
from memorization.finished_runs import Masks, Run
from memorization.report.section import Figure, Section
from memorization.report.theme import grid, overlay, show
from memorization.tables import Table

MOST_SHOWN = 12  # pictures in the figure; the table has all


def verdict_section(
    verdict: Verdict, training: TrainingSet, run: Run, masks: Masks, not_tested: Sequence[str]
) -> Section:
    """The verdict in words, numbers and pictures, and what was not looked at.

    Args:
        run: of the images that were judged, with their bright-ending masks.
        not_tested: what the audit says nothing of, a sentence each.
    """
    shown = verdict.returned[:MOST_SHOWN]
    caption = f"Generated, training picture, bright ending: {len(shown)} of {len(verdict.returned)} that come back"
    draw = partial(pairs_figure, shown, training, run, masks)
    return Section(
        topic="verdict",
        title="Verdict",
        text="\n".join([f"{verdict.text()} {INTERVALS}.", *verdict.warnings]),
        tables=[shares_table(verdict), returned_table(verdict.returned), not_tested_table(not_tested)],
        figures=[Figure("returned", draw, caption)] if shown else [],
        results=verdict.plain() | {"not_tested": list(not_tested)},
        notes=[INTERVALS],
    )


def pairs_figure(shown: Sequence[Returned], training: TrainingSet, run: Run, masks: Masks) -> matplotlib.figure.Figure:
    """Rows of the generated image, the training picture and the bright-ending mask over the former."""
    rows = {row["index"]: row for row in run.rows}
    figure, axes = grid(len(shown), 3, 1.9, 2.05)
    for line, one in zip(axes, shown, strict=True):
        row = rows[one.prompt_index]
        image = run.image(row, row["seeds"].index(one.seed))
        show(line[0], image, f"“{one.prompt[:34]}”")
        show(line[1], read_image(training.pictures[one.place][1]), f"similarity {one.similarity:.2f}")
        mask = masks.get((one.prompt_index, one.seed))
        if mask is None:
            line[2].set_axis_off()
        else:
            overlay(line[2], image, np.asarray(mask))
    return figure


def shares_table(verdict: Verdict) -> Table:
    """Shares of captions that give a copy: of those flagged, of the others, and of those flagged under a mitigation."""
    shares = {
        "flagged captions that give a copy": verdict.copied_flagged,
        "sampled captions that were not flagged and may give one": verdict.copied_unflagged,
        "flagged captions that give one under the mitigation": verdict.copied_mitigated,
    }
    rows = [[name, text_of(share)] for name, share in shares.items()]
    rows.append(
        ["captions that may give one and are missed by the screen, of all, at most", f"{verdict.missed_at_most:.3f}"]
    )
    note = (
        "What may give one gives an image that is nearer to a training picture than every control. The last line holds "
    )
    return Table("Captions", ["what", "share"], rows, f"{note}with a probability of 95 %.")


def text_of(share: Measure | None) -> str:
    return "not tested" if share is None else interval_text(share)


def returned_table(returned: Sequence[Returned]) -> Table:
    """Every training picture that comes back."""
    rows = [
        [
            one.index,
            one.caption[:60],
            *(f"{v:.3f}" for v in (one.similarity, one.p, one.q)),
            one.num_images,
            one.found_by,
            one.picture,
        ]
        for one in returned
    ]
    headers = ["index", "caption", "similarity", "p", "q", "copies", "caption was", "picture"]
    note = "Similarity, p and q of the image that is most like it." if rows else "none"
    return Table("Training pictures that come back", headers, rows, note)


def not_tested_table(not_tested: Sequence[str]) -> Table:
    return Table("What was not tested", ["what"], [[text] for text in not_tested])
