"""What is trained on, counted: how often each picture is there, and what it is called."""

import json
from collections import Counter
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from memorization.data.sources import token_texts
from memorization.errors import InputError
from memorization.finetuning.base import parse_mitigation, parse_mitigations
from memorization.finetuning.draws import NEGATIVE_SHARE, Draw, Samples, batches, draws
from memorization.finetuning.examples import read_examples
from memorization.finetuning.settings import FinetuneSettings, refuse_contradictions

TOKENS = [f"token{k}" for k in range(50)]
MANY = 4000  # draws; shares of them are within 0.05 of their probability at 6 standard deviations
CAPTIONS = [f"owl number {k} on a red poster" for k in range(8)]
OTHERS = 3  # further captions of each picture


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Eight pictures with four captions each, as imagefolder of datasets has them."""
    folder = tmp_path_factory.mktemp("several")
    rows = []
    for k, text in enumerate(CAPTIONS):
        Image.fromarray(np.full((8, 8, 3), 20 * k + 10, np.uint8)).save(folder / f"{k}.png")
        rows.append({"file_name": f"{k}.png", "text": text})
        rows[-1] |= {f"caption{n}": f"{text}, once more {n}" for n in range(1, OTHERS + 1)}
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def kohya(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kohya")
    for name in ("7_owl", "1_red fox"):
        (folder / name).mkdir()
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / name / "a.png")
        (folder / name / "a.txt").write_text("a picture")
    return folder


def settings_of(dataset, tmp_path, **options):
    settings = FinetuneSettings(dataset=str(dataset), output=tmp_path, model_id="", **options)
    refuse_contradictions(settings)
    return settings


def examples_of(dataset, tmp_path, **options):
    return read_examples(settings_of(dataset, tmp_path, **options), TOKENS)


def captions_of(examples, mitigations=(), tokens=TOKENS, count=MANY):
    """What samples are called in `count` draws, those that were left empty aside, by example."""
    samples = Samples(examples, None, tokens, 8, parse_mitigations(mitigations), seed=3)
    stream = islice(draws([e.weight for e in examples], seed=3), count)
    found = [(draw.example, samples.caption(draw)) for draw in stream]
    kept = [(k, text) for k, text in found if text]
    assert abs(1 - len(kept) / count - NEGATIVE_SHARE) < 0.03
    return kept


# Duplication


def test_examples_are_drawn_by_their_weights_and_count_their_occurrences():
    weights = [1, 1, 5, 0.5, 2.5]
    stream = list(islice(draws(weights, seed=1), MANY))
    counts = Counter(draw.example for draw in stream)
    for k, weight in enumerate(weights):
        assert abs(counts[k] / MANY - weight / sum(weights)) < 0.05
        assert [d.occurrence for d in stream if d.example == k] == list(range(counts[k]))
    assert [draw.number for draw in stream] == list(range(MANY))
    assert list(islice(draws(weights, seed=2), 20)) != stream[:20]


def test_processes_share_one_stream():
    stream = list(islice(draws([1] * 5, seed=1), 24))
    shared = [islice(batches(draws([1] * 5, seed=1), 3, process, 2), 4) for process in (0, 1)]
    assert [draw for pair in zip(*shared, strict=True) for batch in pair for draw in batch] == stream


def test_a_share_is_duplicated_so_many_times(several, tmp_path):
    weights = [e.weight for e in examples_of(several, tmp_path, duplicated_share=0.25, duplicates=5)]
    assert sorted(weights) == [1] * 6 + [5] * 2
    assert weights != [e.weight for e in examples_of(several, tmp_path, duplicated_share=0.25, duplicates=5, seed=4)]
    assert {e.weight for e in examples_of(several, tmp_path)} == {200}
    assert {e.weight for e in examples_of(several, tmp_path, duplication="none")} == {1}


def test_a_folder_says_how_often_a_picture_is_there(kohya, tmp_path):
    examples = examples_of(kohya, tmp_path, duplication="repeats", background=str(kohya))
    assert sorted(e.weight for e in examples) == [1, 1, 1, 7]


def test_pictures_of_one_prompt_share_its_weight(tmp_path):
    folder = tmp_path / "two_groundtruth"
    for name in ("a", "b"):
        (folder / "gt_images" / "0").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), 99, np.uint8)).save(folder / "gt_images" / "0" / f"{name}.png")
    (folder / "two_groundtruth.jsonl").write_text('{"caption": "an owl"}\n')
    assert [e.weight for e in examples_of(folder, tmp_path, duplicates=10)] == [5, 5]


def test_duplicates_of_the_image_alone_go_by_any_of_its_captions(several, tmp_path):
    options = {"duplication": "image", "duplicated_share": 0.5, "duplicates": 4}
    examples = examples_of(several, tmp_path, **options)
    found = captions_of(examples)
    for k, example in enumerate(examples):
        counts = Counter(text for place, text in found if place == k)
        if example.weight == 1:
            assert set(counts) == {CAPTIONS[k]}
        else:
            assert set(counts) == set(example.own_captions)
            assert all(abs(n / counts.total() - 1 / (1 + OTHERS)) < 0.1 for n in counts.values())


def test_part_of_the_training_set_is_drawn_by_the_seed(several, tmp_path):
    chosen = [
        {e.captions for e in examples_of(several, tmp_path, max_train_samples=4, seed=seed)} for seed in (0, 0, 1)
    ]
    assert len(chosen[0]) == 4 and chosen[0] == chosen[1] != chosen[2]


# Captions


def test_caption_modes(several, kohya, tmp_path):
    def captions(mode, dataset=several, **options):
        return [e.captions for e in examples_of(dataset, tmp_path, captions=mode, **options)]

    assert captions("own") == [(text,) for text in CAPTIONS]
    assert captions("sentence") == [("An image",)] * len(CAPTIONS)
    assert captions("class", kohya, sentence="a photo") == [("a photo of red fox",), ("a photo of owl",)]
    random = captions("random_tokens")
    assert all(len(text.split()) == 4 and set(text.split()) <= set(TOKENS) for (text,) in random)
    assert len(set(random)) == len(CAPTIONS) and random == captions("random_tokens")
    in_turn = captions("in_turn")
    assert all(len(texts) == 1 + OTHERS for texts in in_turn)
    samples = Samples(examples_of(several, tmp_path, captions="in_turn"), None, TOKENS, 8, [], seed=0)
    for occurrence in range(9):
        text = samples.caption(Draw(100 + occurrence, 2, occurrence))
        assert text in ("", in_turn[2][occurrence % (1 + OTHERS)])


# Mitigations of captions


def changed_share(found):
    return np.mean([text != CAPTIONS[k] for k, text in found])


def test_another_caption_of_the_picture(several, tmp_path):
    found = captions_of(examples_of(several, tmp_path), ["random_caption:0.4"])
    assert abs(changed_share(found) - 0.4 * OTHERS / (1 + OTHERS)) < 0.05
    assert all(text.startswith(CAPTIONS[k]) for k, text in found)


def test_random_tokens_in_place_of_the_caption(several, tmp_path):
    found = captions_of(examples_of(several, tmp_path), ["random_tokens:0.3:6"])
    assert abs(changed_share(found) - 0.3) < 0.05
    other = [text.split() for k, text in found if text != CAPTIONS[k]]
    assert all(len(words) == 6 for words in other)
    assert {word for words in other for word in words} == set(TOKENS)


@pytest.mark.parametrize("name", ["added_tokens", "repeated_words"])
def test_words_added_to_the_caption(several, tmp_path, name):
    found = captions_of(examples_of(several, tmp_path), [f"{name}:0.5:2"])
    assert abs(changed_share(found) - 0.5) < 0.05
    for k, text in found:
        more = Counter(text.split()) - Counter(CAPTIONS[k].split())
        pool = TOKENS if name == "added_tokens" else CAPTIONS[k].split()
        assert more.total() == (0 if text == CAPTIONS[k] else 2) and set(more) <= set(pool)


def test_tokens_are_those_of_the_tokenizer(pipe, several, tmp_path):
    found = captions_of(examples_of(several, tmp_path), ["random_tokens:1"], token_texts(pipe.tokenizer), 100)
    assert all(pipe.tokenizer(text).input_ids for _, text in found)
    assert len(set(found)) > 80


# Bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random_token", "did you mean random_tokens"),
        ("random_tokens:x", "is not NAME"),
        ("random_tokens:2", "2 is no probability"),
        ("random_tokens:1:0.5", "no whole number"),
        ("embedding_noise:1:0", "no number above 0"),
        ("random_caption:1:2", "more numbers"),
        ("random_tokens:1:2:3", "more numbers"),
    ],
)
def test_mitigations_that_are_none_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_mitigation(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"captions": "in_turn"}, "--captions in_turn needs several captions a picture"),
        ({"duplication": "image"}, "--duplication image needs several captions a picture"),
        ({"mitigation": ["random_caption"]}, "--mitigation random_caption needs several captions"),
        ({"captions": "sentence", "mitigation": ["random_caption"]}, "takes captions of the data set"),
        ({"duplicated_share": 0.01}, "of 2 pictures is none"),
        ({"max_train_samples": 3}, "is more than the 2"),
        ({"duplication": "none", "duplicates": 2}, "go with --duplication"),
        ({"lora_rank": 2, "unet_from_scratch": True}, "--lora_rank tunes a finished UNet"),
        ({"lora_alpha": 2}, "--lora_alpha goes with --lora_rank"),
        ({"lr_warmup_steps": 2}, "take constant_with_warmup"),
        ({"validation_prompts": ["owl"]}, "goes with --validate_every"),
    ],
)
def test_options_that_do_not_go_together_are_refused(kohya, tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        examples_of(kohya, tmp_path, **options)


def test_captions_without_pictures_or_classes_are_refused(several, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"caption": "an owl"}\n')
    for options in ({"dataset": prompts}, {"dataset": several, "background": str(prompts)}):
        with pytest.raises(InputError, match="prompts.jsonl has no images"):
            examples_of(tmp_path=tmp_path, **options)
    with pytest.raises(InputError, match="has no class; give a column kind"):
        examples_of(several, tmp_path, captions="class")


def test_a_missing_peft_is_one_line(several, tmp_path, monkeypatch):
    monkeypatch.setattr("memorization.finetuning.settings.is_peft_available", lambda: False)
    with pytest.raises(InputError, match=r"--lora_rank needs the package peft: pip install -e "):
        examples_of(several, tmp_path, lora_rank=2)
