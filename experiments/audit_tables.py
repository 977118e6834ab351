"""Tables of what audits find of what is known to be memorized; each is empty where its part is not measured."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.audit_repetitions import repetitions_table
from experiments.audit_simulation import simulation_table
from memorization.bundled import ROOT
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Measure, interval_text
from memorization.tables import format_table

RESULTS = ROOT / "experiments" / "results" / "audits.json"
DOSES = (64, 256, 1024)
# Of examples/audit.py, and what its model and its controls are. Attacks are made in the first.
TUNED = "tuned"
AUDITS = {TUNED: "tuned, against its base", "without_base": "tuned, by itself", "untouched": "untouched base"}

Results = Mapping[str, Any]
Picture = Mapping[str, Any]


def share(pictures: Iterable[Picture], name: str) -> Measure:
    """Share of pictures that have something; those of one index, by several seeds, belong together."""
    some = list(pictures)
    return share_measure([float(picture[name]) for picture in some], [picture["index"] for picture in some])


def shares_text(*measures: Measure) -> list[str]:
    return [interval_text(measure, 2) for measure in measures]


def of_seeds(cells: Sequence[Mapping[str, Any]], name: str) -> list[Picture]:
    """The pictures of an audit by all seeds.

    Which are trained on, the seed says: those of one index are others by another seed.
    """
    return [{**p, "index": f"{cell['seed']} {p['index']}"} for cell in cells for p in cell[name]]


def by_repeats(pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Those that are repeated, and those that are there once."""
    return [p for p in pictures if p["repeated"]], [p for p in pictures if not p["repeated"]]


def tuned_table(results: Results) -> str:
    """Precision and recall of what comes back, against what was repeated, all seeds together."""
    cells = results.get("tuned", [])
    if not cells:
        return ""
    rows = []
    for name, told in AUDITS.items():
        pictures = of_seeds(cells, name)
        repeated, once = by_repeats(pictures)
        found = [p for p in pictures if p["returned"]]
        flags, backs = share(repeated, "flagged"), [share(some, "returned") for some in (repeated, once)]
        given = share([p for p in repeated if p["copied"]], "returned")
        rows.append([told, *shares_text(share(found, "repeated"), backs[0], flags, given, backs[1])])
    headers = ["model", "precision: of what comes back, repeated", "recall: of what is repeated, comes back"]
    headers += ["of that, flagged by the screen", "of what is repeated and given by its caption, comes back"]
    headers += ["of what is there once, comes back"]
    told = f"Seeds {seeds_text(cells)} of `examples/audit.sh --without_base`. What is given by its caption is told by "
    return f"{format_table(headers, rows)}\n\n{told}pixels."


def attacks_table(results: Results) -> str:
    """What attacks on the tuned models bring back of what was repeated, beside what they make of controls."""
    cells = results.get("tuned", [])
    if not cells:
        return ""
    rows = []
    for name in cells[0]["attacks"]:
        found = [cell["attacks"][name] for cell in cells]
        attacked = [
            {**cell, TUNED: [{**p, "attacked": p["index"] in one["returned"]} for p in cell[TUNED]]}
            for cell, one in zip(cells, found, strict=True)
        ]
        repeated, once = by_repeats(of_seeds(attacked, TUNED))
        hidden = [p for p in repeated if not p["returned"]]
        shares = [share(some, "attacked") for some in (repeated, hidden, once)]
        near = [pooled([one[key] for one in found]) for key in ("near", "near_controls")]
        rows.append([f"`{name}`", *shares_text(share(repeated, "returned"), *shares, *near)])
    headers = ["attack", "of what is repeated, comes back from captions", "by the attack"]
    headers += ["of what captions do not give back, by the attack", "of what is there once"]
    headers += ["captions nearer than every plain control", "controls"]
    return f"{format_table(headers, rows)}\n\nThe tuned models above, against their base; seeds {seeds_text(cells)}."


def pooled(shares: Sequence[Mapping[str, Any]]) -> Measure:
    """Shares of captions of several audits as one; every caption counts as one of its own."""
    count, of = (sum(one[key] for one in shares) for key in ("count", "of"))
    return share_measure([1.0] * count + [0.0] * (of - count), range(of))


def bundled_table(results: Results) -> str:
    """By dose: what captions give by pixels, and where in the audit it is found or lost."""
    cells = results.get("bundled", [])
    if not cells:
        return ""
    pictures = [picture for cell in cells for picture in cell["pictures"]]
    rows = [stages_row(f"{dose}", [p for p in pictures if p["dose"] == dose]) for dose in DOSES]
    rows.append(stages_row("all", pictures))
    headers = ["dose", "given by their captions", "precision", "recall", "recall of the screen", "found after it alone"]
    told = (
        "Verbatim pictures; what is given by its caption is told by pixels, and so is what precision counts as right. "
    )
    told += (
        "Recall: of those, said to come back. Of the screen: of those, flagged. After it alone: of those that are not "
    )
    told += f"flagged, found among the captions that are generated all the same. Seeds {seeds_text(cells)}."
    return f"{format_table(headers, rows)}\n\n{told}"


def stages_row(name: str, pictures: Sequence[Picture]) -> list[str]:
    copied = [p for p in pictures if p["copied"]]
    right = share([p for p in pictures if p["returned"]], "right")
    after = share([p for p in copied if not p["flagged"]], "returned")
    shares = (share(pictures, "copied"), right, share(copied, "returned"), share(copied, "flagged"), after)
    return [name, *shares_text(*shares)]


def seeds_text(cells: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(cell["seed"]) for cell in cells)


def rates_table(results: Results) -> str:
    """Realised rates and bounds of simulated audits."""
    found = results.get("simulation", [])
    return simulation_table(found) if found else ""


def realised_table(results: Results) -> str:
    """Realised rates and bounds of audits of the bundled model."""
    return repetitions_table(results.get("repetitions", {}))


TABLES = {
    "audits_tuned": tuned_table,
    "audits_attacks": attacks_table,
    "audits_bundled": bundled_table,
    "audits_repetitions": realised_table,
    "audits_simulation": rates_table,
}
