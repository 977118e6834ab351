"""."""

from noise_norms import norms_from_maps


def early_masked_norm(trace):
    """LD(1) with the first step's own noise_diff^2 as the mask: a local score without a finished image (ours)."""
    first = trace.maps[0]
    return {"text_noise_norm_early_masked": norms_from_maps(first[None], first[:, None])[:, 0]}
