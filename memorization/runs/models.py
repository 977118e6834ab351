"""The model of a run, with what is added to it and what it is compared with."""

from typing import TYPE_CHECKING

from memorization.models.schedulers import refuse_other_samplers
from memorization.models.stable_diffusion import attach_base, load_pipeline
from memorization.runs.settings import OWN_BASE, RunSettings

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline


def open_model(settings: RunSettings, device: str, given: "DenoisingPipeline | None") -> "DenoisingPipeline":
    """The pipeline that was handed over, or else that of the settings.

    Raises:
        ValueError: one line, if it cannot be loaded, or the given one has a scheduler that it cannot be run with.
    """
    if given is None:
        return load_model(settings, device)
    refuse_other_samplers(given.scheduler)
    return given


def load_model(settings: RunSettings, device: str) -> "DenoisingPipeline":
    """
    Raises:
        ValueError: one line, if it cannot be loaded.
    """
    s = settings
    how = (device, s.dtype, s.channels_last, s.compile)
    lora, embedding = s.lora or (), s.embedding or ()
    pipe = load_pipeline(
        s.model_id,
        s.unet_id,
        *how,
        transformer_id=s.transformer_id,
        vae_id=s.vae_id,
        lora=lora,
        embedding=embedding,
        config=s.config,
        offload=s.offload,
    )
    if s.base_model_id is not None:
        name, config = (s.model_id, s.config) if s.base_model_id == OWN_BASE else (s.base_model_id, None)
        attach_base(pipe, load_pipeline(name, None, *how, config=config, offload=s.offload))
    return pipe
