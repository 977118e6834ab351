"""Detection scores: pure functions on tensors, no model, no files, no state.

Every score is one number per image, computed in float32, and higher means more likely memorized. A
prompt's score is the mean over its images, taken by the caller.
"""

from attn_utils import fit_mask


def noise_diff_map(noise_diff):
    """Where the prompt changes the prediction: noise_diff squared, summed over channels.

    Every norm below is a sum over this map, which is why one pass is enough: keep the map of each
    step and apply the mask when the last step has given it.

    Args:
        noise_diff: noise_pred_text - noise_pred_uncond, shape (images, channels, height, width).

    Returns:
        float32 tensor (images, height, width).
    """
    return noise_diff.float().square().sum(1)


def noise_diff_norm(noise_diff, mask=None):
    """Magnitude of the text-conditional noise prediction, global (D_t) or local (LD_t).

    D_t is that of Wen et al. (ICLR 2024); with a mask it is Chen et al. (ICLR 2025), equation 8: the
    norm of the weighted difference over the mask's mean, so that a mask of ones gives D_t and scaling
    the mask changes nothing.

    Args:
        noise_diff: noise_pred_text - noise_pred_uncond, shape (images, channels, height, width).
        mask: optional non-negative weights, shape (images, 1, mask_height, mask_width).

    Returns:
        float32 tensor (images,).
    """
    return norms_from_maps(noise_diff_map(noise_diff)[None], mask)[:, 0]


def norms_from_maps(maps, mask=None, normalize="mean"):
    """Norms of every step from the squared-difference maps of one pass.

    Args:
        maps: `noise_diff_map` of each step, shape (steps, images, height, width).
        mask: optional non-negative weights, shape (images, 1, mask_height, mask_width).
        normalize: "mean" divides by the mask's mean (Chen et al., equation 8); "rms" by its root mean
            square, a control: for a flat difference it gives D_t whatever the mask, where "mean"
            gives sqrt(1 + CV(mask)^2) times as much.

    Returns:
        float32 tensor (images, steps).

    Raises:
        ValueError: for another `normalize`, or a mask whose size does not divide the maps'.
    """
    if mask is None:
        return maps.float().sum((2, 3)).sqrt().T
    if normalize not in ("mean", "rms"):
        raise ValueError(f"normalize is {normalize!r}; it must be 'mean' or 'rms'")
    mask = fit_mask(mask, maps.shape[-2:])[:, 0]
    weights = mask.square()
    size = mask.mean((1, 2)) if normalize == "mean" else weights.mean((1, 2)).sqrt()
    return (maps.float() * weights).sum((2, 3)).sqrt().T / size[:, None]


def leading_mean(norms, num_steps=None):
    """Mean over the first `num_steps` steps (all when None): D(T) or LD(T), shape (images,).

    Args:
        norms: per-step norms, tensor or array (images, steps).
        num_steps: T of the papers; 1, 10 and the whole run are usual.
    """
    return norms[:, :num_steps].mean(1)
