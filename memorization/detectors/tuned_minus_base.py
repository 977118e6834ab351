"""D of a tuned model less D of its base: what the tuning added, whatever the prompt does to any model."""

import torch

from memorization.detectors.base import detector
from memorization.trace import Trace
from noise_norms import noise_diff_map, norms_from_maps


@detector(
    "tuned_minus_base",
    keys={"tuned_minus_base": "D less the base's", "base_noise_norm": "D of the base"},
    source="ours",
    steps=1,
    cost=(2, 0),
    needs_base=True,
)
def tuned_minus_base(trace: Trace) -> dict[str, torch.Tensor]:
    """D at the first step less that of the base model, on the same starting noise and the same prompt.

    Each model reads the prompt by its own text encoder. The base's own D is `base_noise_norm`. The tuned model is
    `model_id` of the run's settings, the base `base_model_id`. Takes two evaluations of the base.
    """
    base, first = trace.pipe.base, trace.steps[0]
    assert base is not None and trace.base_embeds is not None
    with torch.no_grad():
        prediction = base.predict_noise(first.latents, first.timestep, trace.base_embeds)
    trace.pipe.num_unet_evals += 2 * len(first.latents)  # which the base counted as its own
    tuned, other = (norms_from_maps(m[:, None])[:, 0] for m in (trace.diff_maps[0], noise_diff_map(prediction.diff())))
    return {"tuned_minus_base": tuned - other, "base_noise_norm": other}
