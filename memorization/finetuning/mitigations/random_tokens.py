"""A caption that says nothing."""

from memorization.finetuning.base import Caption, caption_mitigation


@caption_mitigation("random_tokens", knob="number of tokens", strength=4, whole=True)
def random_tokens(caption: Caption, strength: float) -> str:
    """Replaces the caption by random tokens."""
    return " ".join(caption.rng.choices(caption.tokens, k=round(strength)))
