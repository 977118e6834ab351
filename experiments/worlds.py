"""Which findings hold in both planted worlds, the drawn one and that of real pictures, by the same command in each.

Pure functions from what `python -m experiments.doses` keeps of both to a table for `python -m tools.write_docs`. A
share or an AUC says something where its interval lies wholly above or wholly below one half; two worlds agree where
they say the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.doses import OTHERS
from memorization.evaluation.statistics import Measure, interval_text
from memorization.tables import format_table
from planted.making.doses import FULL_DOSE, KINDS

HALF = 0.5
SETS = dict(zip(OTHERS, ("unseen", "near misses"), strict=True))
LEFT_OUT = ("rms", "shuffled", "all ones")  # controls of scores and maps, which are no findings

Finding = tuple[str, str]  # what is measured, and on which kind of prompt


def findings(kept: Mapping[str, Any]) -> Iterator[tuple[Finding, Measure]]:
    """What one world says of the lowest and of the full dose, one share or AUC each.

    Args:
        kept: doses.json; copies are told by its last ruler.
    """
    last = kept["copies"][-1]["ruler"]
    doses = (min(e["dose"] for e in kept["copies"]), FULL_DOSE)
    for e in kept["copies"]:
        if e["ruler"] == last and e["dose"] in doses and e["kind"] in KINDS:
            yield (f"share of copies, dose {e['dose']}", e["kind"]), e["copied"]
    for e in kept["scores"]:
        if e["dose"] == FULL_DOSE and is_finding(e["score"]):
            yield (f"AUC of {e['score']}, {SETS[e['negative_set']]}", e["kind"]), e["auc"]
    for e in kept["maps"]:
        if e["dose"] == FULL_DOSE and is_finding(e["map"]):
            yield (f"pixel AUROC of {e['map']}", e["kind"]), e["auroc"]
    for e in kept["mitigations"]:
        if e["dose"] == FULL_DOSE:
            yield (f"share of copies under {e['method']} {e['strength']:g}", e["kind"]), e["copied"]


def is_finding(name: str) -> bool:
    return not any(word in name for word in LEFT_OUT)


def side(measure: Measure) -> str:
    """Which side of one half an interval lies on: "above", "below", or "" where it holds it."""
    if measure["low"] > HALF:
        return "above"
    return "below" if measure["high"] < HALF else ""


def agreement(one: Measure, other: Measure) -> str:
    """What two worlds say of one finding together.

    Args:
        one, other: of the drawn world, and of real pictures.
    """
    sides = side(one), side(other)
    if sides[0] == sides[1]:
        return f"both {sides[0]}" if sides[0] else "neither says"
    if all(sides):
        return "they disagree"
    return f"drawn alone: {sides[0]}" if sides[0] else f"pictures alone: {sides[1]}"


def worlds_table(drawn: Mapping[str, Any], pictures: Mapping[str, Any]) -> str:
    """A row for each finding that both worlds have, and below how many of them agree."""
    one, other = dict(findings(drawn)), dict(findings(pictures))
    shared = [finding for finding in one if finding in other]
    said = [agreement(one[finding], other[finding]) for finding in shared]
    rows = [
        [*finding, interval_text(one[finding], 2), interval_text(other[finding], 2), text]
        for finding, text in zip(shared, said, strict=True)
    ]
    agreed, against = sum(text.startswith("both") for text in said), said.count("they disagree")
    alone = sum("alone" in text for text in said)
    told = f"Of {len(said)} findings {agreed} are the same in both worlds, {against} are opposite, {alone} show in one"
    told += f" alone and {said.count('neither says')} in neither."
    return f"{format_table(['finding', 'kind', 'drawn', 'pictures', 'one half is'], rows)}\n\n{told}"
