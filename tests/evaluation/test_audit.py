"""Audit on made-up runs: what was hidden, and what came back."""

import json

import pytest

from helpers.eval_runs import mixed, write_descriptor, write_ground_truth, write_mitigation
from memorization import InputError, evaluate
from memorization.evaluation.audit import hiding_strengths


def test_audit_counts_what_was_hidden_and_came_back(tmp_path):
    """Of four memories three are hidden, of which one comes back; the control never does."""
    root, descriptor = write_ground_truth(tmp_path), write_descriptor(tmp_path)
    own = [mixed(0, 1), *(mixed(i, 0) for i in (1, 2, 3))]
    found = [mixed(0, 1), mixed(1, 1), mixed(2, 0), mixed(3, 0)]
    before = write_mitigation(root, "own", "pe", 1.0, own)
    after = write_mitigation(root, "audit", "pe", 1.0, found, prompt_embeds="found")
    never = write_mitigation(root, "control", "none", None, [mixed(i, 0) for i in range(4)], prompt_embeds="other")
    options = {"audited": after, "sscd": descriptor}
    section = evaluate("audit", before, control=never, **options)
    section.save(tmp_path / "e")
    result, control = json.loads((tmp_path / "e" / "audit.json").read_text())
    assert [result[n]["value"] for n in ("hidden", "copied", "returned")] == pytest.approx([3 / 4, 1 / 2, 1 / 3])
    assert control["copied"]["value"] == 0 and control["returned"]["value"] is None
    with pytest.raises(InputError, match="has no run of its method and strength"):
        evaluate("audit", never, **options)


@pytest.mark.parametrize("method", ["ss", "prss"])
def test_a_defender_who_knows_the_prompt_is_no_audit(tmp_path, method):
    """Paraphrases are of the true prompt, which whoever is given an embedding does not know."""
    root, descriptor = write_ground_truth(tmp_path), write_descriptor(tmp_path)
    rows = [mixed(i, 0) for i in range(4)]
    flags = {"optim_target_loss": None, "l_target_ss": 1.0, "prompt_embeds": "found"}
    flags |= {"l_target_pr": 3.0, "mag_thres_pr": 5.0} if method == "prss" else {}
    own = write_mitigation(root, "own", method, None, rows, **flags | {"prompt_embeds": None})
    audited = write_mitigation(root, "audit", method, None, rows, **flags)
    with pytest.raises(InputError, match="searched paraphrases of the prompt"):
        evaluate("audit", own, audited=audited, sscd=descriptor)


def test_the_weakest_strength_that_hides_is_chosen():
    runs = (("none", 0, 1.0), ("pe", 3, 0.5), ("pe", 2, 0.1), ("pe", 1, 0.0), ("gni", 1, 0.9), ("gni", 2, 0.8))
    results = [
        {"kind": kind, "method": m, "strength": s, "copied": {"value": c}} for m, s, c in runs for kind in ("k", "all")
    ]
    assert {m: r["strength"] for m, r in hiding_strengths(results).items()} == {"pe": 2, "gni": 2}
