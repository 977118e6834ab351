"""."""

from memorization.mitigations.base import DelayedGuidance, generate


def delayed(pipe, options, images, strength, dynamic):
    waiting = round(strength * options.num_inference_steps)
    return generate(pipe, options, images, guidance=DelayedGuidance(options.guidance_scale, waiting, dynamic))
