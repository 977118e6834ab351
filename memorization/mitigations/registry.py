"""."""

from dataclasses import dataclass, replace
from functools import partial

from memorization.mitigations.attention import attenuated, other_padding, rescaled_attention
from memorization.mitigations.guidance import delayed
from memorization.mitigations.neurons import neurons_off
from memorization.mitigations.prompt_search import mitigate
from memorization.mitigations.start_noise import lower_magnitude, optimised_noise, other_basin, sail


@dataclass(frozen=True)
class Method:
    """A mitigation.

    Attributes:
        function: from (pipe, options, images, strength) to `Mitigated`.
        knob: what strength is.
        largest: of the strengths that mean something.
        source: where it was published.
        stops: whether an image is done at or below --optim_target_loss, where that is given.
    """

    function: object
    knob: str
    largest: float
    source: str
    stops: bool = False


def run_method(pipe, options, images, name, strength):
    """Generate a batch with a method out of `METHODS`; strength 0 is plain generation."""
    if strength == 0:
        return mitigate(pipe, replace(options, optim_target_loss=None), images)  # the target is the method's, not PE's
    return METHODS[name].function(pipe, options, images, strength)


METHODS = {
    "sail": Method(partial(optimised_noise, function=sail, evals_an_iteration=4),
                   "Adam steps on the starting noise", 10, "Jeon et al., ICML 2025", stops=True),
    "init_noise": Method(other_basin, "repetitions of the step out of the basin", 8, "Han et al., NeurIPS 2025"),
    "init_noise_adam": Method(partial(optimised_noise, function=lower_magnitude, evals_an_iteration=2),
                              "AdamW steps on the starting noise", 50, "Han et al., NeurIPS 2025", stops=True),
    "cfg_delay": Method(partial(delayed, dynamic=False), "share of steps without guidance", 1,
                        "Jain et al., CVPR 2025"),
    "cfg_delay_dynamic": Method(partial(delayed, dynamic=True), "largest share of steps without guidance", 1,
                                "Jain et al., CVPR 2025"),
    "attention_rescale": Method(rescaled_attention, "begin token's logit times 1 + strength", 1,
                                "Ren et al., ECCV 2024"),
    "padding_fix": Method(other_padding, "share of the padding that is hidden", 1, "Kim and No, 2026"),
    "attention_attenuate": Method(attenuated, "weight of the repulsion from the original", 10,
                                  "Zhao et al., ICML 2026"),
    "neuron_off": Method(neurons_off, "share of value neurons that are off", 1, "Hintersdorf et al., NeurIPS 2024"),
}  # fmt: skip
