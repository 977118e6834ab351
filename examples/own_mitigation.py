"""A mitigation of your own in one file: the prompt's embedding pulled towards the empty prompt's.

python inference_mem.py --plugin examples/own_mitigation.py --method fade --strength 0.3
python eval_mem.py mitigation det_outputs/*_mitigation.jsonl --plugin examples/own_mitigation.py
"""

from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting


@mitigation("fade", knob="share of the empty prompt", source="yours", largest=1, sweep=(0.1, 0.2, 0.3, 0.5, 0.8))
def fade(pipe, options: MitigationOptions, images: ImageBatch, strength: float) -> Mitigated:
    """Mixes the prompt's embedding with that of the empty prompt."""
    text = (1 - strength) * images.embeds() + strength * images.negatives()
    return always_acting(pipe, options, images, text=text)
