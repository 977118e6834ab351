"""Another caption of the picture."""

from memorization.finetuning.base import Caption, caption_mitigation


@caption_mitigation("random_caption", probability=1, needs_several=True)
def random_caption(caption: Caption, strength: float) -> str:
    """Takes a caption at random out of all that the picture has."""
    return caption.rng.choice(caption.own)
