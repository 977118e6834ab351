"""DDIM out of a model's own scheduler: a table of what decides the numbers, and what its first step can show.
Schedulers of flow matching stay what they are.

`DDIMScheduler.from_config` fills what another scheduler does not name with DDIM's defaults, made for pixels: latents
cut to [-1, 1], a last step to alpha 1, another spacing. Here that gets the values of Stable Diffusion.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

DDIM = ("DDIMScheduler", "DDIMParallelScheduler")
# Other samplers of the same trained noise schedule; distilled, flow-matching and EDM schedulers are none.
KNOWN = (
    *DDIM,
    "DDPMScheduler",
    "DDPMParallelScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # of betas, that DDIM has
PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETAS = ("beta_start", "beta_end", "beta_schedule")
# Every value that decides DDIM's numbers, with Stable Diffusion's where a scheduler of another class names none.
DECIDING: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
NEEDED_BY = {"clip_sample": ("clip_sample_range",), "thresholding": ("dynamic_thresholding_ratio", "sample_max_value")}
VELOCITY = "velocity"  # what flow matching predicts, and D is of
REFUSED_IN_FLOW = ("stochastic_sampling", "invert_sigmas")  # noise that no seed decides, and sigmas the other way round
NOISY = 0.9  # share of the trained timesteps from which on a first step counts as noise


def ddim_of(scheduler: Any) -> DDIMScheduler:
    """DDIM on the noise schedule that a pipeline's scheduler declares.

    A DDIM scheduler keeps what it declares. Of another class, spacing and offset say how that sampler steps, not how
    the model was trained: they become Stable Diffusion's, but "trailing", which models of zero terminal SNR need.

    Args:
        scheduler: of diffusers, as a pipeline loaded it.

    Raises:
        ValueError: one line, if DDIM cannot stand in for it: flow matching, EDM, distilled, unknown, or no betas named.
    """
    config, name = scheduler.config, type(scheduler).__name__
    refuse_other_kinds(config, name)
    if name in DDIM:
        return DDIMScheduler.from_config(config)
    values = {key: config.get(key, usual) for key, usual in DECIDING.items()}
    spacing = "trailing" if config.get("timestep_spacing") == "trailing" else DECIDING["timestep_spacing"]
    return DDIMScheduler(**values | {"steps_offset": DECIDING["steps_offset"], "timestep_spacing": spacing})


def refuse_other_kinds(config: Mapping[str, Any], name: str) -> None:
    """
    Raises:
        ValueError: if a scheduler's noise schedule is not one that DDIM has.
    """
    is_flow = config.get("use_flow_sigmas") or config.get("prediction_type") == "flow_prediction"
    if name not in KNOWN or is_flow:
        what = "flow matching" if is_flow or name.startswith("FlowMatch") else "no sampler of Stable Diffusion 1 or 2"
        raise ValueError(f"scheduler {name} is {what}, which DDIM cannot stand in for; give a model with betas")
    prediction = config.get("prediction_type", DECIDING["prediction_type"])
    if prediction not in PREDICTIONS:
        raise ValueError(
            f"scheduler {name} has prediction_type {prediction!r}, which is none of {', '.join(PREDICTIONS)}"
        )
    if config.get("trained_betas") is not None:
        return
    schedule, filled_in = config.get("beta_schedule"), config.get("_use_default_values", ())
    needed = ("beta_schedule",) if schedule == "squaredcos_cap_v2" else BETAS
    lacking = [key for key in needed if key not in config or key in filled_in]
    if lacking:
        raise ValueError(f"scheduler {name} names no {' and no '.join(lacking)}: add the model's to its config")
    if schedule not in SCHEDULES:
        raise ValueError(f"scheduler {name} has beta_schedule {schedule!r}, which is none of {', '.join(SCHEDULES)}")


def flow_of(scheduler: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of a model of flow matching, as it is.

    Raises:
        ValueError: one line, if it is not Euler's, or draws noise of its own.
    """
    name = type(scheduler).__name__
    if not is_flow(scheduler):
        raise ValueError(f"scheduler {name} is not the FlowMatchEulerDiscreteScheduler that this model is made for")
    switched = next((key for key in REFUSED_IN_FLOW if scheduler.config.get(key)), None)
    if switched is not None:
        raise ValueError(f"scheduler {name} has {switched}, which is not done here: switch it off in its config")
    return scheduler


def refuse_other_samplers(scheduler: Any) -> None:
    """
    Raises:
        ValueError: one line, if a pipeline that was put together in memory steps by another scheduler than those here.
    """
    name = type(scheduler).__name__
    if name not in DDIM and not is_flow(scheduler):
        remedy = "pipe.scheduler = ddim_of(pipe.scheduler), of memorization.models.schedulers, makes it so"
        raise ValueError(f"scheduler {name} of the given pipeline is not DDIM; {remedy}")


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of flow matching that is used here: there D is of the velocity, and never blind."""
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler)


def deciding_values(scheduler: Any) -> dict[str, Any]:
    """What of a scheduler decides the numbers, by name, as it is kept beside the rows."""
    config = scheduler.config
    if is_flow(scheduler):
        values = {key: value for key, value in config.items() if not key.startswith("_") and key not in REFUSED_IN_FLOW}
        return values | {"prediction_type": VELOCITY}
    unused = [key for switch, others in NEEDED_BY.items() if not config[switch] for key in others]
    unused += BETAS if config["trained_betas"] is not None else ["trained_betas"]
    values = {key: config[key] for key in DECIDING if key not in unused}
    if "trained_betas" in values:  # a thousand numbers
        text = repr([float(beta) for beta in values["trained_betas"]])
        values["trained_betas"] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return values


def has_former_values(scheduler: Any) -> bool:
    """Whether DDIM's own defaults in what the scheduler does not name, as runs once had them, give the same values.

    Raises:
        ValueError: as `ddim_of`.
    """
    return deciding_values(ddim_of(scheduler)) == deciding_values(DDIMScheduler.from_config(scheduler.config))


def first_timestep(scheduler: DDIMScheduler, num_inference_steps: int) -> int:
    """The timestep that a generation starts at.

    Raises:
        ValueError: one line, if the scheduler has no timesteps for so many steps.
    """
    most = scheduler.config.num_train_timesteps
    remedy = "use fewer --num_inference_steps"
    if num_inference_steps > most:
        raise ValueError(
            f"{num_inference_steps} steps are more than the {most} that the model was trained with; {remedy}"
        )
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps.tolist()
    if not 0 <= min(timesteps) <= max(timesteps) < most:
        spacing = scheduler.config.timestep_spacing
        raise ValueError(
            f"{num_inference_steps} steps of spacing {spacing!r} start at timestep {max(timesteps)}, but the model's "
            f"last is {most - 1}; {remedy}"
        )
    return timesteps[0]


def is_blind_at_first(scheduler: DDIMScheduler, num_inference_steps: int) -> bool:
    """Whether the first step has no signal (zero terminal SNR): there the noise prediction is x_t whatever the prompt.

    With alpha = 0, eps = sqrt(alpha) v + sqrt(1 - alpha) x_t is x_t, and the noise difference is 0 by construction
    (Lin et al., WACV 2024, section 3.1).

    Raises:
        ValueError: one line, if such a model predicts the noise, from which no image can be had there, or as
            `first_timestep`.
    """
    is_blind = bool(scheduler.alphas_cumprod[first_timestep(scheduler, num_inference_steps)] <= 0)
    if is_blind and scheduler.config.prediction_type == "epsilon":
        raise ValueError(
            "the scheduler has zero terminal SNR and prediction_type 'epsilon', which cannot start from pure noise: "
            "mend the model's scheduler_config.json"
        )
    return is_blind


def told_of_first_step(scheduler: DDIMScheduler, num_inference_steps: int) -> str | None:
    """What a user has to know of a first step that is far from the noisiest; None where it is near.

    Raises:
        ValueError: as `first_timestep`.
    """
    first, most = first_timestep(scheduler, num_inference_steps), scheduler.config.num_train_timesteps
    if first >= NOISY * most:
        return None
    return (
        f"{num_inference_steps} steps of spacing {scheduler.config.timestep_spacing!r} start at timestep {first} of "
        f"{most}, which is far from noise: scores of the first step, thresholds and images are not those of 10 to 250 "
        "steps"
    )
