"""A local chat model that rewords captions."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools.paraphrases.accept import READ_WORDS, content_words, fold, parse_answer

ANSWERS = 8  # per call
MAX_CHARACTERS = 800  # of a caption that is asked about; scripts without spaces would pass as one word
REQUEST = (
    "Rewrite the image caption in three ways, in other words with the same meaning. Answer with a numbered list only."
    "\nCaption: {}"
)
# Small models follow examples where they do not follow instructions, and lists vary more than single captions.
EXAMPLES = {
    "A small dog runs on the beach": (
        "A little dog running along the beach",
        "On the sand, a small dog is running",
        "A puppy that runs by the sea on a beach",
    ),
    "Portrait of an Old Man - Oil Painting": (
        "An oil painting of an elderly man's face",
        "A painted portrait showing an old man",
        "Old man, portrait in oil paint",
    ),
}


class Chat:
    """A chat model with its tokenizer, on the GPU if there is one."""

    # What the examples show gets into small models' answers.
    example_words = frozenset(w for c, texts in EXAMPLES.items() for t in (c, *texts) for w in content_words(fold(t)))

    def __init__(self, name: str | Path, gguf_file: str | None = None):
        """
        Args:
            name: hub id or folder.
            gguf_file: the file in it to read, for a model in GGUF format.

        Raises:
            Exception: of many kinds, if the model cannot be loaded; ValueError if it is not a chat model.
        """
        source = {"gguf_file": gguf_file} if gguf_file else {}
        self.tokenizer = AutoTokenizer.from_pretrained(name, **source)
        if self.tokenizer.chat_template is None:
            raise ValueError("it has no chat template; take an instruct model")
        device, dtype = ("cuda", "auto") if torch.cuda.is_available() else ("cpu", torch.float32)
        self.model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **source).to(device).eval()
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def captions(self, caption: str, seed: int) -> list[str]:
        """Rewordings of a caption from several answers to one request, unfiltered."""
        asked = " ".join(caption.split()[:READ_WORDS])[:MAX_CHARACTERS]
        length = len(self.tokenizer(asked, add_special_tokens=False)["input_ids"])
        torch.manual_seed(seed)
        answers = self.answers(asked, max_new_tokens=min(40 + 4 * length, 500))
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        finished = [not self.ends.isdisjoint(answer) for answer in answers]
        return [c for text, done in zip(texts, finished, strict=True) for c in parse_answer(text, done)]

    def answers(self, asked: str, max_new_tokens: int) -> list[list[int]]:
        """Token ids of several answers, drawn at random."""
        inputs = self.tokenizer.apply_chat_template(
            messages(asked), add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self.model.device)
        pad = self.tokenizer.pad_token_id
        answers = self.model.generate(
            **inputs,
            do_sample=True,
            temperature=0.9,
            top_p=0.95,
            top_k=50,
            num_return_sequences=ANSWERS,
            max_new_tokens=max_new_tokens,
            pad_token_id=min(self.ends) if pad is None else pad,
        )
        return answers[:, inputs["input_ids"].shape[1] :].tolist()


def messages(caption: str) -> list[dict[str, str]]:
    """The request, after examples of how it is answered; no system message, which some templates refuse."""
    turns = []
    for example, answers in EXAMPLES.items():
        turns.append({"role": "user", "content": REQUEST.format(example)})
        answer = "\n".join(f"{k}. {text}" for k, text in enumerate(answers, 1))
        turns.append({"role": "assistant", "content": answer})
    return [*turns, {"role": "user", "content": REQUEST.format(caption)}]
