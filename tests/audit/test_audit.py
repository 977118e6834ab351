"""An audit of the bundled model where the truth is known: four pictures that it repeats, four that it never saw."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import torch

import audit_mem
from helpers.other_pipelines import make_flux
from helpers.scale_runs import environment, launcher
from memorization.audit.captions import recombined_captions
from memorization.audit.verdict import missed_bound, still_copied, warnings_of
from memorization.bundled import COPY_DESCRIPTOR, GROUND_TRUTH, PLANTED, ROOT
from memorization.data.prompts import load_prompts
from memorization.evaluation.copies import Copies, CopySettings
from memorization.evaluation.decisions import too_few_controls

NUM = 4  # pictures of either kind
HOW = ["--num_images_per_prompt", "1", "--num_inference_steps", "8", "--num_copy_controls", "20", "--fdr", "0.1"]
CONTROLS = PLANTED / "planted_control_groundtruth"  # with pictures; those of the training set are left out
HOW += ["--controls", str(CONTROLS)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Captioned pictures as people keep them: those that the model memorized first."""
    folder = tmp_path_factory.mktemp("training")
    memorized = [r for r in load_prompts(str(GROUND_TRUTH)) if r.kind == "verbatim"][:NUM]
    others = load_prompts(str(CONTROLS))[:NUM]
    for k, record in enumerate([*memorized, *others]):
        shutil.copy(record.reference_images[0], folder / f"{k}.png")
        caption = record.prompt.replace(" ", "&#32;") if k == NUM else record.prompt  # as web pages have it
        (folder / f"{k}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def audited(pictures, tmp_path_factory):
    output = tmp_path_factory.mktemp("audit")
    argv = ["--training_data", str(pictures), "--output", str(output), *HOW]
    with pytest.raises(SystemExit) as ended:
        audit_mem.main([*argv, "--fail_above", "0"])
    return argv, output, ended.value.code


def test_what_was_planted_comes_back_and_nothing_else(audited, pictures):
    _, output, code = audited
    found = json.loads((output / "audit.json").read_text())["verdict"]
    flagged = [
        line["index"] for line in json.loads((output / "audit.json").read_text())["decisions"] if line["memorized"]
    ]
    assert flagged == list(range(NUM))
    back = {one["index"] for one in found["returned"]}
    assert back and back <= set(range(NUM))
    assert all(one["prompt_index"] == one["index"] and one["found_by"] == "flagged" for one in found["returned"])
    assert found["copied_unflagged"]["count"] == 0 and found["missed_at_most"] == 0  # all of the others were generated
    assert code == 1


def test_the_page_has_the_verdict_first_and_needs_nothing_else(audited):
    page = (audited[1] / "report.html").read_text()
    assert page.index("training pictures come back") < page.index("<h2>Decisions") < page.index("<h2>Copies")
    assert "What was not tested" in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_same_command_goes_on_and_says_the_same(audited, capsys):
    argv, output, _ = audited
    before, rows = (output / "audit.json").read_bytes(), output / "det_outputs" / "generated_ours.jsonl"
    kept = rows.read_bytes().splitlines(keepends=True)
    rows.write_bytes(b"".join(kept[:2]) + kept[2][:30])  # as a kill in the middle of a row leaves it
    audit_mem.main(argv)
    assert (output / "audit.json").read_bytes() == before
    assert "training pictures come back" in capsys.readouterr().out


def test_nothing_comes_back_of_what_was_never_trained_on(pictures, tmp_path):
    for k in range(NUM, 2 * NUM):
        for ending in ("png", "txt"):
            shutil.copy(pictures / f"{k}.{ending}", tmp_path)
    audit_mem.main(["--training_data", str(tmp_path), "--output", str(tmp_path / "out"), *HOW])
    found = json.loads((tmp_path / "out" / "audit.json").read_text())["verdict"]
    assert found["num_flagged"] == 0 and found["returned"] == []


def test_two_processes_say_what_one_does(pictures, tmp_path, model_folder, capsys):
    how = ["--training_data", str(pictures), "--model_id", str(model_folder), "--sscd", str(COPY_DESCRIPTOR)]
    how += [
        "--device",
        "cpu",
        "--num_images_per_prompt",
        "1",
        "--num_inference_steps",
        "2",
        "--num_controls",
        "3",
        "--fdr",
        "0.3",
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as of the two
    audit_mem.main([*how, "--output", str(tmp_path / "one")])
    torch.set_num_threads(threads)
    line = [*launcher(2), str(ROOT / "audit_mem.py"), *how, "--output", str(tmp_path / "two")]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.replace("two/", "one/") == capsys.readouterr().out
    one, two = ((tmp_path / name / "audit.json").read_text() for name in ("one", "two"))
    with pytest.raises(SystemExit):
        audit_mem.main([*how, "--num_unflagged", "1", "--output", str(tmp_path / "one")])
    assert capsys.readouterr().err.endswith("has changed since); give another --output\n")
    assert two.replace(str(tmp_path / "two"), str(tmp_path / "one")) == one


def test_what_the_screen_may_miss_is_bounded_by_the_sample():
    share = {"value": 0.0, "low": 0.0, "high": 0.06, "count": 0, "of": 59}
    assert missed_bound(share, 590, 1000) == pytest.approx((1 - 0.05 ** (1 / 59)) * 0.59)
    assert missed_bound(share | {"of": 590}, 590, 1000) == 0  # there is nothing else to miss
    draws = np.random.default_rng(0).binomial(59, 0.05, 4000)
    held = [
        missed_bound({"value": d / 59, "low": 0, "high": 0, "count": d, "of": 59}, 1000, 1000) >= 0.05 for d in draws
    ]
    assert np.mean(held) >= 0.95 - 0.01


def test_a_mitigation_is_judged_by_what_was_a_copy_without_it():
    def judged(*p_values, limit=0.1):
        lines = [
            {"index": k, "prompt": f"{k}", "kind": "flagged", "p": p, "is_copy": p <= limit}
            for k, p in enumerate(p_values)
        ]
        return Copies([], [], lines, 5, 49, CopySettings(fdr=0.05, by_prompt=True))

    kinds = dict.fromkeys(range(5), "flagged")
    # A copy of one of five would be none at the rate: 0.08 is above 0.05 / 5.
    share = still_copied(judged(0.02, 0.02, 0.1, 0.3, 0.1), judged(0.5, 0.08, 0.3, 0.4, 0.2, limit=0), kinds)
    assert (share["count"], share["of"]) == (1, 5)
    assert warnings_of(judged(*[0.02] * 5)) == [too_few_controls(49, 0.05, 5, "prompts (flagged)")]
    assert "unless 20 of 1000" in str(too_few_controls(1000, 0.05, 1000))  # as docs/audit.md has it
    assert "2 of 5" in warnings_of(judged(*[0.02] * 5))[0]


def test_controls_are_made_of_two_captions_and_were_never_trained_on():
    captions = [f"{a} {b} on the {c}" for a, b, c in zip("abcdefgh", "ijklmnop", "stuvwxyz", strict=True)]
    made = [record.prompt for record in recombined_captions(captions, 50, seed=0)]
    assert made == [record.prompt for record in recombined_captions(captions, 50, seed=0)]
    assert len(set(made)) == len(made) == 50 and not set(made) & set(captions)
    halves = [{tuple(c.split()[:3]) for c in captions}, {tuple(c.split()[3:]) for c in captions}]
    assert all(tuple(m.split()[:3]) in halves[0] and tuple(m.split()[3:]) in halves[1] for m in made)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--training_data", str(PLANTED / "planted_prompts.jsonl")], "have no picture"),
        (["--training_data", "nowhere"], "nowhere"),
        (["--controls", str(GROUND_TRUTH), "--training_data", str(GROUND_TRUTH)], "alone; give some"),
        (["--model_id", "some/model"], "give SSCD's weights by --sscd"),
        (["--num_copy_controls", "18"], "18 controls of copies, nothing is ever a copy at --fdr 0.05, which takes 19"),
        (["--base_model_id", "own", "--fdr", "0.001"], "with 128 captions"),
        (["--strength", "2"], "name one by --method"),
        (["--method", "pe"], "--strength"),
        (["--method", "nothing"], "nothing"),
    ],
)
def test_bad_input_ends_with_one_line_before_the_work(more, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit_mem, "load_model", lambda *args: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit) as ended:
        audit_mem.main(["--output", str(tmp_path), *more])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.count("\n") == 1


def test_a_mitigation_that_the_family_does_not_have_is_refused_before_the_work(pictures, tmp_path, capsys):
    make_flux().save_pretrained(tmp_path / "flux")
    argv = [
        "--model_id",
        tmp_path / "flux",
        "--sscd",
        COPY_DESCRIPTOR,
        "--training_data",
        pictures,
        "--controls",
        CONTROLS,
    ]
    with pytest.raises(SystemExit) as stopped:
        audit_mem.main([str(word) for word in (*argv, "--method", "cfg_delay", "--output", tmp_path / "out")])
    told = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "cfg_delay is not defined for Flux.1, whose guidance is distilled" in told
    assert not (tmp_path / "out" / "index").exists()
