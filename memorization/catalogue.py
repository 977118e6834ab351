"""Tables of all detectors and mitigations, as `--list_scores`, `--list_methods` and the docs show them."""

from memorization.detectors.base import Detector, in_order_of_cost
from memorization.mitigations.base import MITIGATIONS, Mitigation
from memorization.released import released_text
from memorization.tables import Table

HEADERS = ["name", "what", "cost", "source", "knob", "released"]
EXAMPLE_STEPS = 50


def detector_table() -> Table:
    """What `--scores` takes, the cheapest first."""
    rows = [[d.name, d.what, detector_cost(d), d.source, "", released_text(d.released)] for d in in_order_of_cost()]
    note = "Cost: what a score takes per image alone, a generation being 2 evaluations per step; higher = memorized."
    return Table("Detectors", HEADERS, rows, note)


def detector_cost(detector: Detector) -> str:
    """Evaluations of a score alone, and what it evaluates beyond the generation."""
    if detector.steps is None:
        steps = "whole generation"
    else:
        steps = f"{detector.steps} step{'s' if detector.steps > 1 else ''}"
    evaluations, gradients = detector.cost
    extra = [f"{evaluations} evaluations"] if evaluations else []
    extra += [f"{gradients} gradients"] if gradients else []
    return " + ".join([steps, *extra])


def mitigation_table() -> Table:
    """What `--method` takes, by what it works on."""
    methods = sorted(MITIGATIONS.values(), key=lambda m: (m.reads, m.name))
    rows = [[m.name, m.what, mitigation_cost(m), m.source, knob_text(m), released_text(m.released)] for m in methods]
    note = (
        "Cost: evaluations per image beyond a plain generation, at most, at the strongest of the sweep and "
        f"{EXAMPLE_STEPS} steps."
    )
    return Table("Mitigations", HEADERS, rows, note)


def mitigation_cost(method: Mitigation) -> str:
    strongest = method.sweep[-1] if method.sweep else 1
    return str(method.cost(strongest, EXAMPLE_STEPS))


def knob_text(method: Mitigation) -> str:
    bound = f", at most {method.largest:g}" if method.largest is not None else ""
    target = ", done at --optim_target_loss" if method.stops else ""
    variants = "".join(f", {VARIANT_OPTIONS[v]}" for v in method.variants)
    return f"{method.knob}{bound}{target}{variants}"


VARIANT_OPTIONS = {"be": "--run_version ours_A", "prmask": "--pr_mask"}
