"""A CLIP tokenizer for the captions of a planted world."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

MAX_LENGTH = 77
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def make_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges spell every word of `captions` as one token."""
    byte_level = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, end_of_word_suffix="</w>", initial_alphabet=byte_level, show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(m) for m in json.loads(bpe.to_str())["model"]["merges"]]
    alphabet = sorted(byte_level)
    pieces = dict.fromkeys([*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges), BOS, EOS])
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, bos_token=BOS, eos_token=EOS, unk_token=EOS, pad_token=EOS)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)
