"""Random tokens in the caption."""

from memorization.finetuning.base import Caption, caption_mitigation
from memorization.mitigations.perturb import insert


@caption_mitigation("added_tokens", knob="number of tokens", strength=2, whole=True)
def added_tokens(caption: Caption, strength: float) -> str:
    """Adds random tokens at random places of the caption."""
    text = caption.text
    for _ in range(round(strength)):
        text = insert(text, caption.rng.choice(caption.tokens), caption.rng)
    return text
