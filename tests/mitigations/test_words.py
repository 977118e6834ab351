"""Words that are added to prompts, by the rules of the released code (Somepalli et al., NeurIPS 2023)."""

import random

import pytest

from memorization.data.sources import token_texts
from memorization.mitigations import perturb
from memorization.mitigations.perturb import AUGMENTATIONS, augment_prompt

PROMPT = "the golden owl mug"
TEXTS = ["castle", "ing", "!", "fish"]


@pytest.mark.parametrize("style", AUGMENTATIONS)
def test_the_prompt_stays_with_so_many_words_more_and_depends_on_the_seed(style):
    found = augment_prompt(PROMPT, style, 3, 0, TEXTS)
    assert found == augment_prompt(PROMPT, style, 3, 0, TEXTS) != augment_prompt(PROMPT, style, 3, 1, TEXTS)
    words = iter(found.split(" "))
    assert len(found.split(" ")) == 7 and all(word in words for word in PROMPT.split(" "))  # in their order
    assert augment_prompt(PROMPT, style, 0, 0, TEXTS) == PROMPT


def test_numbers_are_below_100_000():
    numbers = [int(augment_prompt("", "rand_numb_add", 1, seed)) for seed in range(2000)]
    assert 99_000 < max(numbers) < 100_000 and min(numbers) < 1000


def test_words_are_repeated_from_the_original_prompt_alone(monkeypatch):
    drawn_from = []

    class Recorded(random.Random):
        def choice(self, words):
            drawn_from.append(list(words))
            return super().choice(words)

    monkeypatch.setattr(perturb.random, "Random", Recorded)
    augment_prompt(PROMPT, "rand_word_repeat", 5, 0)
    assert drawn_from == [PROMPT.split()] * 5


def test_any_place_is_taken():
    places = {augment_prompt("a b", "rand_word_add", 1, seed, ["x"]).split().index("x") for seed in range(50)}
    assert places == {0, 1, 2}


def test_the_texts_of_tokens_are_those_of_the_first_ids(pipe):
    tokenizer = pipe.tokenizer
    texts, special = token_texts(tokenizer), {tokenizer.bos_token_id, tokenizer.eos_token_id}
    assert texts == [tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in special]
    assert len(texts) == 922 and "golden" in texts and "!" in texts and any(not t.isalpha() for t in texts)
    assert token_texts(tokenizer, largest=5) == texts[:5]
