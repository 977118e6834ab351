"""An audit's page: the verdict first, with the pictures that come back beside what was generated, then the attacks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial

import matplotlib.figure

from memorization.audit.attacks import ATTACKS, Attacked
from memorization.audit.captions import TrainingSet
from memorization.audit.returned import Returned
from memorization.audit.verdict import Verdict
from memorization.data.pictures import read_image
from memorization.evaluation.statistics import INTERVALS, Measure, interval_text
from memorization.finished_runs import Masks, Run
from memorization.report.copy_figures import Pair, pairs_figure
from memorization.report.section import Figure, Section
from memorization.tables import Table

MOST_SHOWN = 12  # pictures in the figure; the table has all


def verdict_section(
    verdict: Verdict, training: TrainingSet, run: Run, masks: Masks, not_tested: Sequence[str]
) -> Section:
    """The verdict in numbers and pictures, and what was not looked at; its words are the page's first.

    Args:
        run: of the images that were judged, with their bright-ending masks.
        not_tested: what the audit says nothing of, a sentence each.
    """
    shown = verdict.returned[:MOST_SHOWN]
    caption = f"Generated, training picture, bright ending: {len(shown)} of {len(verdict.returned)} that come back"
    draw = partial(returned_figure, shown, training, run, masks)
    return Section(
        topic="verdict",
        title="What comes back",
        text=f"{INTERVALS}.",
        tables=[shares_table(verdict), returned_table(verdict.returned), not_tested_table(not_tested)],
        figures=[Figure("returned", draw, f"{caption} from captions.")] if shown else [],
        results=verdict.plain() | {"not_tested": list(not_tested)},
        notes=[INTERVALS],
    )


def attacks_section(
    attacked: Sequence[Attacked], training: TrainingSet, runs: Mapping[str, Run], settings: Mapping[str, object]
) -> Section:
    """What each attack brings back, beside what it makes of controls.

    Args:
        runs: of the images, by the attack's name.
        settings: of the attacks, which stand among the results.
    """
    figures = []
    for one in attacked:
        shown = sorted(one.returned, key=lambda returned: returned.place not in one.new)[:MOST_SHOWN]
        told = (
            f"Generated {ATTACKS[one.name]}, and training picture: {len(shown)} of {len(one.returned)} that come back"
        )
        if shown:
            draw = partial(returned_figure, shown, training, runs[one.name], {})
            figures.append(Figure(one.name, draw, f"{told}, those first that do only so."))
    tables = [attacks_table(attacked)]
    tables += [
        returned_table(one.returned, f"Training pictures that come back {ATTACKS[one.name]}") for one in attacked
    ]
    text = f"{INTERVALS}. What comes back is decided against controls that were attacked in the same way."
    results = [asdict(one) for one in attacked]
    return Section("attacks", "Attacks", text, tables, figures, {"settings": dict(settings), "attacks": results})


def attacks_table(attacked: Sequence[Attacked]) -> Table:
    rows = [
        [
            ATTACKS[one.name],
            one.num_captions,
            len(one.returned),
            len(one.new),
            *map(interval_text, (one.near, one.near_controls)),
        ]
        for one in attacked
    ]
    headers = ["attack", "captions", "pictures that come back", "only so", "captions nearer than every plain control"]
    note = (
        "The last column is what an attack makes of what was never trained on; the one before says what is beyond it."
    )
    return Table("Attacks", [*headers, "the same of its controls"], rows, note)


def returned_figure(
    shown: Sequence[Returned], training: TrainingSet, run: Run, masks: Masks
) -> matplotlib.figure.Figure:
    """Generated images, training pictures and bright-ending masks over the former, where there are any."""
    rows = {row["index"]: row for row in run.rows}
    pairs = []
    for one in shown:
        row = rows[one.prompt_index]
        image, picture = run.image(row, row["seeds"].index(one.seed)), read_image(training.pictures[one.place][1])
        mask = masks.get((one.prompt_index, one.seed))
        pairs.append(Pair(image, picture, f"similarity {one.similarity:.2f}", f"“{one.prompt[:30]}”", mask))
    return pairs_figure(pairs)


def shares_table(verdict: Verdict) -> Table:
    """Shares of captions that give a copy: of those flagged, of the others, and of those flagged under a mitigation."""
    shares = {
        "flagged captions that give a copy": verdict.copied_flagged,
        "sampled captions that were not flagged and may give one": verdict.copied_unflagged,
        "flagged captions that give one under the mitigation": verdict.copied_mitigated,
    }
    rows = [[name, text_of(share)] for name, share in shares.items()]
    rows.append(
        ["captions that may give one and are missed by the screen, of all, at most", f"{verdict.shown_bound:.3f}"]
    )
    note = (
        "What may give one gives an image that is nearer to a training picture than every control. The last line holds "
    )
    return Table("Captions", ["what", "share"], rows, f"{note}with a probability of 95 %.")


def text_of(share: Measure | None) -> str:
    return "not tested" if share is None else interval_text(share)


def returned_table(returned: Sequence[Returned], caption: str = "Training pictures that come back") -> Table:
    """Every training picture that comes back."""
    rows = [
        [
            one.caption[:60],
            one.index,
            one.repeats,
            *(f"{v:.3f}" for v in (one.similarity, one.p, one.q)),
            one.num_images,
            one.found_by,
            one.picture,
        ]
        for one in returned
    ]
    headers = ["caption", "index", "repeats", "similarity", "p", "q", "copies", "caption was", "picture"]
    note = "Similarity, p and q of the image that is most like it." if rows else "none"
    return Table(caption, headers, rows, note)


def not_tested_table(not_tested: Sequence[str]) -> Table:
    return Table("What was not tested", ["what"], [[text] for text in not_tested])
