"""What an audit's verdict says nothing of."""

from collections.abc import Mapping

from memorization.audit.attacks import ATTACKS, EMBEDDINGS
from memorization.audit.controls import pictures_of_controls
from memorization.audit.settings import AuditSettings
from memorization.data.prompts import PromptRecord


def not_tested(settings: AuditSettings, controls: Mapping[int, PromptRecord], num_left_out: int = 0) -> list[str]:
    """What the audit says nothing of, and where its verdict may be wrong.

    Args:
        num_left_out: captions that were not generated.
    """
    others = "" if EMBEDDINGS in settings.attacks else ", embeddings"
    told = [f"Prompts other than the captions: parts of them, paraphrases{others}."]
    told.append(f"Other seeds than the {settings.num_images_per_prompt} of each caption.")
    if settings.base_model_id is None:
        told.append("Whether the model before tuning gives the same pictures: no --base_model_id.")
        if not pictures_of_controls(settings, controls):
            told.append(
                "Whether a picture comes back, or only what its caption says: an image is like a picture of the same "
                "caption without being a copy. Give --controls with pictures that were not trained on, or the base."
            )
    if settings.controls is None:
        told.append("Controls that somebody wrote: they are made out of the captions' words; give some by --controls.")
    told += [
        f"Extraction {text}: no --attacks {name}." for name, text in ATTACKS.items() if name not in settings.attacks
    ]
    if num_left_out:
        told.append(f"Images of the {num_left_out} captions that were neither flagged nor drawn among the others.")
    if settings.method is None:
        told.append("Any mitigation: no --method.")
    elif settings.attacks:
        told.append(f"Attacks under the mitigation: they are on the model without {settings.method}.")
    return told
