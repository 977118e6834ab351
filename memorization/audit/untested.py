"""What an audit's controls stand for, and what its verdict says nothing of."""

from collections.abc import Mapping

from memorization.audit.settings import AuditSettings
from memorization.data.prompts import PromptRecord


def pictures_of_controls(settings: AuditSettings, controls: Mapping[int, PromptRecord]) -> dict[int, PromptRecord]:
    """Controls with pictures, where controls are what is no copy: images of the base have none of their own."""
    shown = {index: record for index, record in controls.items() if record.reference_images}
    return {} if settings.base_model_id is not None else shown


def not_tested(settings: AuditSettings, controls: Mapping[int, PromptRecord]) -> list[str]:
    """What the audit says nothing of, and where its verdict may be wrong."""
    told = ["Prompts other than the captions: parts of them, paraphrases, searched embeddings."]
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
    if settings.method is None:
        told.append("Any mitigation: no --method.")
    return told
