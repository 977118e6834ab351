"""Audits of what is known: rates of simulated ones, and what is measured of finished ones, on made-up files."""

import json
from dataclasses import replace

import numpy as np
import pytest

from experiments import audit_repetitions, audit_simulation, audits
from experiments.audit_repetitions import measure_bounds, repetitions_table
from experiments.audit_simulation import Case, repetition, simulate
from experiments.audit_tables import attacks_table, bundled_table, rates_table, tuned_table
from experiments.planted_tables import NOT_MEASURED
from memorization.errors import InputError
from memorization.tables import parse_results
from tools.write_docs import TABLES


def test_few_copies_among_many_captions_are_found_and_hidden_ones_bounded():
    found = repetition(Case(400, 8, hidden=4), seed=1)
    assert found["found"] >= 0.5 and found["false_captions"] <= 0.2
    assert found["bound"] >= found["missed"] == pytest.approx(4 / 400)


def test_nothing_but_chance_is_false_where_nothing_copies(monkeypatch):
    monkeypatch.setattr(audit_simulation, "FDR", 0.2)
    found = [repetition(Case(60, 0), seed) for seed in range(60)]
    assert np.mean([one["false_pictures"] for one in found]) <= 0.2 * 2 + 0.1  # of either kind of captions
    assert all(np.isnan(one["found"]) for one in found)


def test_bounds_of_samples_stand_beside_what_was_missed(monkeypatch):
    kinds = {k: "flagged" if k < 20 else "not flagged" for k in range(100)}
    may = {k: k % 10 == 0 for k in range(100)}  # eight of the eighty that are not flagged
    monkeypatch.setattr(audit_repetitions, "may_copy", lambda folder: (may, kinds))
    found = measure_bounds({60: None}, 20)
    assert {(f["unflagged"], f["drawn"], f["missed"]) for f in found} == {(80, 30, 0.08)}
    assert len({f["bound"] for f in found}) > 1  # by chance three of thirty, or more, or fewer
    # Of three of thirty: 95 % from above, of the 80 % that were not flagged.
    assert any(f["bound"] == pytest.approx(0.8 * 0.2386, abs=1e-3) for f in found)
    screens = [{"rate": 0.1, "decided": 20 * k, "false": k} for k in (0, 1, 2)]
    screened, bounded = repetitions_table({"screens": screens, "bounds": found}).split("\n\n")
    assert "| 3           | 20.000 (± 11.547)   | 0.033 (± 0.017)" in screened
    assert "| 60            | 80          | 30            | 0.080 " in bounded


def write_audit(folder, back, flagged, attacks=()):
    (folder / "prompts").mkdir(parents=True)
    verdict = {"returned": [{"index": k} for k in back]}
    (folder / "audit.json").write_text(json.dumps({"verdict": verdict, "attacks": {"attacks": attacks}}))
    rows = [{"index": k, "caption": f"c {k}", "kind": "flagged" if k in flagged else "not flagged"} for k in range(4)]
    (folder / "prompts" / "generated.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def tuned(tmp_path):
    """The folder of an example's first seed, with two pictures that are there once and two repeated ones."""
    folder = tmp_path / "out" / "tuned" / "0" / "seed_1"
    for name in ("1_once", "9_repeated"):  # indices 0, 1 and 2, 3
        part = folder / "pictures" / name
        part.mkdir(parents=True)
        for k in range(2):
            (part / f"{k}.png").write_bytes(b"")
            (part / f"{k}.txt").write_text(f"{name} {k}")
    return folder


NEAR = {"near": {"count": 3, "of": 4}, "near_controls": {"count": 1, "of": 4}}
CONTRAST = {"name": "contrast", "returned": [{"index": 2}, {"index": 3}, {"index": 0}]} | NEAR


@pytest.fixture
def measured(tuned, tmp_path, monkeypatch):
    """Measures the audits of an example whose tuned model gives some pictures; returns the commands and the results."""

    def run(back):
        write_audit(tuned / "tuned", back, [2], [CONTRAST])
        write_audit(tuned / "without_base", [2, 3], [])
        write_audit(tuned / "untouched", [], [])
        made = []
        monkeypatch.setattr(audits.Runner, "work", lambda self, commands, title: made.extend(commands))
        monkeypatch.setattr(audits, "read_generated", lambda folder: None)
        monkeypatch.setattr(audits, "given_pictures", lambda run, records: {1, 2})
        argv = ["--parts", "tuned", "--seeds", "1", "--output", tmp_path / "out", "--results", tmp_path / "found.json"]
        argv = [str(word) for word in argv]
        audits.main(argv)
        audits.main(argv)
        return made, parse_results((tmp_path / "found.json").read_text())

    return run


def test_what_an_attack_brings_back_stands_beside_what_captions_do(measured, tuned):
    ((_, _, folder, *words),), results = measured([2])
    assert folder == str(tuned.parent) and words[-2:] == ["--attacks", "contrast"]
    (line,) = attacks_table(results).splitlines()[2:3]
    counts = [cell.split(", ")[-1].strip() for cell in line.split("|")[1:-1]]
    assert counts == ["`contrast`", "1 of 2", "2 of 2", "1 of 1", "1 of 2", "3 of 4", "1 of 4"]


def test_precision_and_recall_are_of_what_was_repeated(measured):
    made, results = measured([0, 2])
    assert len(made) == 1  # what is measured is not made again
    table = tuned_table(results)
    tuned, alone, untouched = table.splitlines()[2:5]
    assert [cell.split(", ")[-1].strip() for cell in tuned.split("|")[2:7]] == [*["1 of 2"] * 3, "1 of 1", "1 of 2"]
    assert [cell.split(", ")[-1].strip() for cell in alone.split("|")[2:4]] == ["2 of 2"] * 2
    assert [cell.split(", ")[-1].strip() for cell in untouched.split("|")[2:7]] == [
        "-", "0 of 2", "0 of 2", "0 of 1", "0 of 2"
    ]  # fmt: skip


def test_an_audit_that_fails_leaves_the_others_alone_and_one_made_otherwise_is_refused(tmp_path, monkeypatch, capsys):
    def measure(folder, seed):
        if seed == 0:
            raise InputError("no such thing")
        return {"seed": seed, "pictures": []}

    part = replace(audits.PARTS["bundled"], measure=measure, first_seed=0)
    monkeypatch.setattr(audits, "PARTS", {"bundled": part})
    monkeypatch.setattr(audits.Runner, "work", lambda *given: None)
    argv = ["--parts", "bundled", "--seeds", "2", "--output", tmp_path / "out", "--results", tmp_path / "found.json"]
    argv = [str(word) for word in argv]
    with pytest.raises(SystemExit) as ended:
        audits.main(argv)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "no such thing" in told and "not measured: bundled, seed 0;" in told
    assert [cell["seed"] for cell in json.loads((tmp_path / "found.json").read_text())["bundled"]] == [1]
    monkeypatch.setattr(audits, "PARTS", {"bundled": replace(part, how=["--fdr", "0.2"])})
    with pytest.raises(SystemExit):
        audits.main(argv)
    assert "made otherwise" in capsys.readouterr().err


def test_tables_say_where_pictures_are_found_and_what_is_not_measured():
    picture = {"index": 0, "dose": 64, "copied": True, "flagged": True, "returned": True, "right": True}
    others = [picture | {"index": 1, "flagged": False}, picture | {"index": 2, "flagged": False, "returned": False}]
    others.append(picture | {"index": 3, "copied": False, "right": False})
    row = bundled_table({"bundled": [{"seed": 60, "pictures": [picture, *others]}]}).splitlines()[2]
    counts = [cell.split(", ")[-1].strip() for cell in row.split("|")[2:7]]
    assert counts == ["3 of 4", "2 of 3", "2 of 3", "1 of 3", "1 of 2"]
    table = rates_table({"simulation": simulate([replace(Case(100, 5), hidden=1)], 2)})
    assert "of 2 " in table.replace(" |", " ") and "2 repetitions" in table
    assert tuned_table({}) == attacks_table({}) == bundled_table({}) == rates_table({}) == ""
    assert TABLES["audits_bundled"]() == NOT_MEASURED or "seeds" in TABLES["audits_bundled"]().lower()
