"""What a model's first step shows, looked at before the work: whether it is noise, and whether it shows anything."""

from typing import TYPE_CHECKING

from memorization.errors import InputError, input_errors, warn
from memorization.models.schedulers import is_blind_at_first, is_flow, told_of_first_step

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

BY_CONSTRUCTION = "is 0 for every prompt by construction: this model starts from pure noise (zero terminal SNR)"


def look_at_first_step(pipe: "DenoisingPipeline", num_inference_steps: int, say: bool = True) -> bool:
    """Whether the first step is blind: its noise difference 0 whatever the prompt; see `is_blind_at_first`.

    Args:
        say: whether to warn in one line when the first step is far from the noisiest.

    Raises:
        InputError: if the model has no such number of steps.
    """
    if is_flow(pipe.scheduler):  # it starts from pure noise, where the velocity shows the prompt
        return False
    with input_errors():
        is_blind = is_blind_at_first(pipe.scheduler, num_inference_steps)
        told = told_of_first_step(pipe.scheduler, num_inference_steps)
    if told is not None and say:
        warn(f"{told}")
    return is_blind


def refuse_blind_method(is_blind: bool, name: str) -> None:
    """
    Raises:
        InputError: if a mitigation looks at a step that shows nothing.
    """
    if is_blind:
        raise InputError(
            f"{name} looks at the magnitude of the first step, which {BY_CONSTRUCTION}; use another method"
        )


def refuse_blind_exit(is_blind: bool, early_exit: int | None) -> None:
    """
    Raises:
        InputError: if a detection run would end after a step that shows nothing.
    """
    if is_blind and early_exit == 1:
        raise InputError(f"--early_exit 1 gives D(1) alone, which {BY_CONSTRUCTION}; use 2 or more")
