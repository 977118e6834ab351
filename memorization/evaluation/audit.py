"""Audit after mitigation: which memories that a mitigation hides come back from another prompt embedding?

As in Finding DoRI (ICML 2026): embeddings that bring the training image back are searched
(`tools/search_embeddings.py`), and images are made from them under the mitigation. A memory that was hidden and
comes back was not removed. The control is the same search for pictures that were never trained on: what it brings
back too is no sign of memory.

Methods that search paraphrases are left out: whoever is handed an embedding does not learn the prompt that it stands
for, and paraphrases of it would hide the memory by construction.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from memorization.errors import InputError
from memorization.evaluation.mitigation import ALL, measure_runs
from memorization.evaluation.plain_colours import without_plain_colours
from memorization.evaluation.shares import share_measure
from memorization.evaluation.statistics import Result, interval_text
from memorization.evaluation.tradeoff import PromptMeasures
from memorization.finished_runs import PLAIN, Run, by_strength, check_comparable, method_of, strength_of
from memorization.similarity.measure import Evaluators
from memorization.tables import Table

HIDDEN = 0.1  # share of copies that a strength may leave to be called hiding
CONTROL = "never trained on"
COLUMNS = {
    "hidden": "hidden from the prompt",
    "copied": "copied from the embedding",
    "returned": "hidden that returned",
}


def hiding_strengths(results: Sequence[Result]) -> dict[str, Result]:
    """For each method the weakest strength that leaves at most `HIDDEN` of the copies, else its strongest.

    Args:
        results: of `mitigation.evaluate_mitigation`, a method's runs from its weakest to its strongest.

    Returns:
        The run's result over all kinds of prompts, by method.

    Raises:
        InputError: if copies were not counted.
    """
    if any("copied" not in r for r in results):
        raise InputError("copies were not counted: evaluate mitigations with a copy descriptor, --sscd")
    chosen: dict[str, Result] = {}
    for r in results:
        settled = r["method"] in chosen and chosen[r["method"]]["copied"]["value"] <= HIDDEN
        if r["kind"] == ALL and r["method"] != PLAIN and not settled:
            chosen[r["method"]] = r
    return chosen


def evaluate_audit(
    own: Sequence[Run],
    audited: Sequence[Run],
    control: Sequence[Run],
    evaluators: Evaluators,
    dataset: str | None = None,
) -> list[Result]:
    """Share of hidden memories that come back, one result per audited run and then per control.

    Args:
        own: runs from the prompts themselves; of each method and strength in `audited` one.
        audited: runs of the same prompts and seeds from embeddings that were searched.
        control: runs from embeddings that were searched for pictures never trained on.

    Raises:
        InputError: if runs cannot be compared, one has no counterpart or searches paraphrases, or there is no copy
            descriptor.
    """
    refuse_paraphrases([*audited, *control])
    if evaluators.descriptor is None:
        raise InputError("an audit looks for copies: give a copy descriptor by --sscd")
    pairs = {(method_of(run), strength_of(run)): run for run in own}
    lacking = next((run for run in audited if (method_of(run), strength_of(run)) not in pairs), None)
    if lacking is not None:
        raise InputError(f"{lacking.path} has no run of its method and strength from the prompts; give it by --own")
    audited = by_strength(audited)
    counterparts = [pairs[method_of(run), strength_of(run)] for run in audited]
    check_comparable([*counterparts, *audited])
    kept = without_plain_colours([*counterparts, *audited])
    counterparts, audited = kept[: len(counterparts)], kept[len(counterparts) :]
    evaluators = replace(evaluators, clip=None)  # only copies count
    before, after = (measure_runs(runs, evaluators, dataset) for runs in (counterparts, audited))
    results = [
        compare(run, before[counterpart.key], after[run.key])
        for counterpart, run in zip(counterparts, audited, strict=True)
    ]
    if control:
        check_comparable(control)
        control = without_plain_colours(control)
        found = measure_runs(control, evaluators)
        results += [compare(run, None, found[run.key]) for run in control]
    return results


def refuse_paraphrases(runs: Sequence[Run]) -> None:
    """
    Raises:
        InputError: if a run from embeddings searched among paraphrases of the prompt.
    """
    knowing = next((run for run in runs if run.settings.get("l_target_ss") is not None), None)
    if knowing is not None:
        raise InputError(
            f"{knowing.path} searched paraphrases of the prompt, which whoever is given an embedding does not know: an "
            "audit of SS or PRSS says nothing; leave it out"
        )


def compare(run: Run, before: Sequence[PromptMeasures] | None, after: Sequence[PromptMeasures]) -> Result:
    """Result of a run from embeddings; without a run from the prompts themselves it is a control."""
    now = np.array([m["copied"] for m in after])
    was = np.full(now.shape, np.nan) if before is None else np.array([m["copied"] for m in before])
    prompts = np.arange(len(now)).repeat(now.shape[1])
    values = {"hidden": 1 - was, "copied": now, "returned": np.where(was == 0, now, np.nan)}  # of what was hidden
    method = method_of(run) if before is not None else f"{method_of(run)}, {CONTROL}"
    head = {"run": run.key, "method": method, "strength": strength_of(run), "prompts": len(now)}
    return head | {name: share_measure(v.ravel(), prompts) for name, v in values.items()}


def audit_tables(results: Sequence[Result]) -> list[Table]:
    """One `Table` of all runs and controls."""
    rows = [[r["method"], f"{r['strength']:g}", r["prompts"], *(interval_text(r[n]) for n in COLUMNS)] for r in results]
    note = "Copied: SSCD above 0.5. Hidden: not copied from the prompt itself at the same seed."
    return [Table("Audit after mitigation", ["method", "strength", "prompts", *COLUMNS.values()], rows, note)]
