"""Words of the caption repeated."""

from memorization.finetuning.base import Caption, caption_mitigation
from memorization.mitigations.perturb import insert


@caption_mitigation("repeated_words", knob="number of words", strength=2, whole=True)
def repeated_words(caption: Caption, strength: float) -> str:
    """Repeats words of the caption at random places of it."""
    text, words = caption.text, caption.text.split(" ")
    for _ in range(round(strength)):
        text = insert(text, caption.rng.choice(words), caption.rng)
    return text
