"""An audit of the bundled model where the truth is known: four pictures that it repeats, four that it never saw."""

import json
import shutil
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

import audit_mem
from helpers.other_pipelines import make_flux
from helpers.scale_runs import one_thread, run_ranks
from memorization.audit.attacks import judge_attack
from memorization.audit.captions import TrainingSet, read_training_set, recombined_captions
from memorization.audit.returned import returned_pictures
from memorization.audit.sections import returned_table, shares_table
from memorization.audit.verdict import Verdict, missed_bound, still_copied, warnings_of
from memorization.bundled import COPY_DESCRIPTOR, GROUND_TRUTH, MODEL, PLANTED
from memorization.data.prompts import PromptRecord, load_prompts
from memorization.evaluation.copies import Copies, CopySettings
from memorization.evaluation.decisions import too_few_controls
from memorization.evaluation.judged_images import decide_prompts
from memorization.evaluation.shares import share_measure
from memorization.files.json_lines import ResultsFile
from memorization.finished_runs import read_run
from memorization.runs.embedding_search import Found
from memorization.similarity.index import stored

NUM = 4  # pictures of either kind
HOW = ["--num_images_per_prompt", "1", "--num_inference_steps", "8", "--num_copy_controls", "20", "--fdr", "0.1"]
CONTROLS = PLANTED / "planted_control_groundtruth"  # with pictures; those of the training set are left out
HOW += ["--controls", str(CONTROLS)]
CONTROLS_ATTACKED = 3
ATTACKED = "--attacks contrast embeddings --search_steps 1 --base_model_id own --device cpu --num_images_per_prompt 1"
ATTACKED = [*ATTACKED.split(), "--num_inference_steps", "2", "--num_copy_controls", CONTROLS_ATTACKED, "--fdr", "0.3"]
ATTACKED += ["--num_controls", "9", "--controls", CONTROLS, "--batch_size", "2"]  # several groups a run
RUNS_OF = {
    "contrast": ("contrast_contrast", "contrast_controls_contrast"),
    "embeddings": ("embeddings_none", "embeddings_controls_none"),
}


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
def flux(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flux")
    make_flux().save_pretrained(folder)
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


@pytest.fixture(scope="module")
def attacked(pictures, model_folder, tmp_path_factory):
    """An audit with both attacks, of a tiny model with random weights."""
    output = tmp_path_factory.mktemp("attacked") / "one"
    argv = ["--training_data", pictures, "--model_id", model_folder, "--sscd", COPY_DESCRIPTOR, *ATTACKED]
    argv = [str(word) for word in argv]
    with redirect_stdout(StringIO()) as told, one_thread():
        audit_mem.main([*argv, "--output", str(output)])
    return argv, output, told.getvalue()


def test_an_attack_has_controls_of_its_own_which_stand_beside(attacked):
    _, output, told = attacked
    found = json.loads((output / "audit.json").read_text())
    assert found["attacks"]["settings"] == {"contrast_scale": 3.0, "search_steps": 1}
    for name, one in zip(("contrast", "embeddings"), found["attacks"]["attacks"], strict=True):
        rows = [read_run(output / "det_outputs" / f"{stem}_mitigation.jsonl").rows for stem in RUNS_OF[name]]
        assert one["name"] == name and [len(some) for some in rows] == [2 * NUM, CONTROLS_ATTACKED]
        assert one["near"]["of"] == one["num_captions"] == 2 * NUM
        assert one["near_controls"]["of"] == one["num_controls"] == CONTROLS_ATTACKED
    back = {one["place"] for one in found["verdict"]["returned"]}
    back |= {place for one in found["attacks"]["attacks"] for place in one["new"]}
    assert found["verdict"]["num_back"] == len(back) and "By contrast with the base 0 come back" in told
    page = (output / "report.html").read_text()
    assert "<h2>Attacks" in page and "no --attacks" not in page and "against itself without" in page


@pytest.mark.parametrize(("highest", "back"), [(0.65, [0, 1]), (0.95, [])])
def test_what_an_attack_brings_back_is_decided_against_its_own_controls(highest, back, pictures):
    def lines(*nearest):
        names = ("index", "prompt", "kind", "seed", "nearest_picture")
        return [
            dict(zip(names, (k, f"{k}", "flagged", 0, k), strict=True)) | {"nearest": v} for k, v in enumerate(nearest)
        ]

    attacked, controls = lines(0.9, 0.7, 0.05, 0.02), lines(highest, 0.5, *[0.1] * 7)
    how = CopySettings(fdr=0.3, by_prompt=True)
    decide_prompts(attacked, controls, 0.3)
    found = Copies([], [], attacked, 8, 9, how, controls)
    plain = Copies([], [], [], 8, 9, how, lines(0.45, 0.1))
    one = judge_attack(
        "contrast", read_training_set(str(pictures)), dict.fromkeys(range(4), "flagged"), plain, found, [0]
    )
    assert [p.place for p in one.returned] == back and one.new == back[1:]
    assert [(share["count"], share["of"]) for share in (one.near, one.near_controls)] == [(2, 4), (2, 9)]
    assert one.warnings[0].startswith("warning: by contrast with the base, with 9 controls nothing is found unless")


def test_a_picture_that_comes_back_says_how_often_it_is_trained_on():
    records = {k: PromptRecord(k, "a", "a", reference_images=(Path(f"{k}.png"),), repeats=k + 1) for k in range(3)}
    line = {"index": 0, "prompt": "a", "seed": 0, "nearest": 0.9, "nearest_picture": 1, "p": 0.1, "q": 0.1}
    lines = [line | {"is_copy": True}, line | {"nearest_picture": 2, "is_copy": False}]
    (one,) = returned_pictures(TrainingSet("made up", records), lines, {0: "flagged"})
    table = returned_table([one])
    assert one.repeats == 2 and table.rows[0][list(table.headers).index("repeats")] == 2


def test_two_processes_say_what_one_does(attacked, capsys):
    argv, output, told = attacked
    two = output.with_name("two")
    assert run_ranks(2, "audit_mem", *argv, "--output", two).replace("two/", "one/") == told
    texts = [(folder / "audit.json").read_text().replace(str(two), str(output)) for folder in (output, two)]
    assert texts[0] == texts[1]
    with pytest.raises(SystemExit):
        audit_mem.main([*argv, "--num_unflagged", "1", "--output", str(output)])
    error = capsys.readouterr().err
    assert "has changed since" in error and error.endswith("; give another --output\n")


def test_an_audit_goes_on_after_an_interruption_of_any_kind_of_stage(attacked, tmp_path, monkeypatch):
    """Each call is stopped at the second thing that a stage writes, the next one goes on to the stage behind it."""
    argv, output, _ = attacked
    stages = ["index.json", "screen_baseline.jsonl", "generated_ours.jsonl", "contrast_contrast_mitigation.jsonl"]
    stages += ["embeddings.safetensors", "embeddings_controls_none_mitigation.jsonl"]
    writes = Counter()

    def stop(path, until):
        writes[path.name] += 1
        if path.name == stages[0] and writes[path.name] == until:
            raise KeyboardInterrupt

    add, write, save = ResultsFile.add, Found.write, stored.write_text
    monkeypatch.setattr(ResultsFile, "add", lambda self, *rows: (add(self, *rows), stop(self.path, 1)))
    monkeypatch.setattr(Found, "write", lambda self, path, kept: (write(self, path, kept), stop(path, 2)))
    monkeypatch.setattr(stored, "write_text", lambda path, text: (save(path, text), stop(path, 1)))
    while stages:
        with pytest.raises(SystemExit) as ended, one_thread():
            audit_mem.main([*argv, "--output", str(tmp_path)])
        assert ended.value.code == 130, stages[0]
        del stages[0]
    monkeypatch.undo()
    with one_thread():
        audit_mem.main([*argv, "--output", str(tmp_path)])
    text = (tmp_path / "audit.json").read_text().replace(str(tmp_path), str(output))
    assert text == (output / "audit.json").read_text()


def test_what_the_screen_may_miss_is_bounded_by_the_sample():
    share = {"value": 0.0, "low": 0.0, "high": 0.06, "count": 0, "of": 59}
    assert missed_bound(share, 590, 1000) == pytest.approx((1 - 0.05 ** (1 / 59)) * 0.59)
    assert missed_bound(share | {"of": 590}, 590, 1000) == 0  # there is nothing else to miss
    draws = np.random.default_rng(0).binomial(59, 0.05, 4000)
    held = [
        missed_bound({"value": d / 59, "low": 0, "high": 0, "count": d, "of": 59}, 1000, 1000) >= 0.05 for d in draws
    ]
    assert np.mean(held) >= 0.95 - 0.01


def test_an_upper_bound_is_rounded_up_wherever_it_is_shown():
    share = share_measure([1.0] * 2 + [0.0] * 17, range(19))
    verdict = Verdict(24, 24, 5, 0.1, [], None, share, missed_bound(share, 19, 24))  # 2 of 24, 0.0833
    assert "misses at most 8.4% of all" in verdict.text() and shares_table(verdict).rows[-1][1] == "0.084"


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
        (["--training_data", str(PLANTED / "planted_prompts.jsonl")], "lacks a picture for 80 of 80"),
        (["--training_data", "nowhere"], "nowhere"),
        (["--controls", str(GROUND_TRUTH), "--training_data", str(GROUND_TRUTH)], "alone; give some"),
        (["--model_id", "some/model"], "give SSCD's weights by --sscd"),
        (["--num_copy_controls", "18"], "18 controls of copies, nothing is ever a copy at --fdr 0.05, which takes 19"),
        (["--base_model_id", "own", "--fdr", "0.001"], "with 128 captions"),
        (["--strength", "2"], "name one by --method"),
        (["--method", "pe"], "--strength"),
        (["--method", "nothing"], "nothing"),
        (["--attacks", "contrast"], "give it by --base_model_id"),
        (["--attacks", "embeddings"], "give them with captions by --controls"),
        (
            ["--attacks", "embeddings", "--controls", str(PLANTED / "planted_nonmemorized.jsonl")],
            "pictures to search for",
        ),
        (["--contrast_scale", "4"], "add --attacks contrast"),
    ],
)
def test_bad_input_ends_with_one_line_before_the_work(more, told, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(audit_mem, "load_model", lambda *args: pytest.fail("the model was loaded"))
    with pytest.raises(SystemExit) as ended:
        audit_mem.main(["--output", str(tmp_path / "out"), *more])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        ((), "pictures without captions"),
        (("", " "), "empty captions alone"),
        (("one", "two"), "give no controls by their words"),
    ],
)
def test_pictures_without_captions_and_captions_without_controls_end_with_one_line(captions, told, tmp_path, capsys):
    for k in range(2):
        shutil.copy(load_prompts(str(CONTROLS))[k].reference_images[0], tmp_path / f"{k}.png")
    for k, caption in enumerate(captions):
        (tmp_path / f"{k}.txt").write_text(caption)
    with pytest.raises(SystemExit) as ended:
        audit_mem.main(["--training_data", str(tmp_path), "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and told in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--method", "cfg_delay"], "cfg_delay is not defined for Flux.1, whose guidance is distilled"),
        (["--attacks", "embeddings"], "--attacks embeddings is not defined for Flux.1"),
        (["--base_model_id", MODEL, "--fdr", "0.2"], "is no base of"),
    ],
)
def test_what_the_family_does_not_have_is_refused_before_the_work(more, told, flux, pictures, tmp_path, capsys):
    argv = ["--model_id", flux, "--sscd", COPY_DESCRIPTOR, "--training_data", pictures, "--controls", CONTROLS, *more]
    with pytest.raises(SystemExit) as stopped:
        audit_mem.main([str(word) for word in (*argv, "--output", tmp_path / "out")])
    assert stopped.value.code == 2 and told in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
