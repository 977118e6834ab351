"""Detection scores: pure functions on tensors, no model, no files, no state.

Every score is one number per image, computed in float32, and higher means more likely memorized. A
prompt's score is the mean over its images, taken by the caller.
"""

import torch
import torch.nn.functional as F


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


def fit_mask(mask, size):
    """Mask in float32 at the latent's `size`, each attention position repeated over what it covers.

    Raises:
        ValueError: if `size` is not a whole multiple of the mask's.
    """
    mask = mask.float()
    height, width = mask.shape[-2:]
    if (height, width) == tuple(size):
        return mask
    if size[0] % height or size[1] % width:
        raise ValueError(f"a mask of {height} x {width} does not fit latents of {size[0]} x {size[1]}")
    return F.interpolate(mask, size=tuple(size), mode="nearest")


def leading_mean(norms, num_steps=None):
    """Mean over the first `num_steps` steps (all when None): D(T) or LD(T), shape (images,).

    Args:
        norms: per-step norms, tensor or array (images, steps).
        num_steps: T of the papers; 1, 10 and the whole run are usual.
    """
    return norms[:, :num_steps].mean(1)


def bright_ending_mask(attention, size):
    """End-token attention of the last step as a mask (Chen et al., ICLR 2025, section 3).

    Raw probabilities, no threshold: near zero everywhere on an ordinary image, bright where the image
    is a copy.

    Args:
        attention: one map per layer, each (images, height * width): the end token's column, averaged
            over heads.
        size: (height, width) of those maps.

    Returns:
        float32 tensor (images, 1, height, width), the mean over layers in the order given.
    """
    mean = torch.stack([a.float() for a in attention]).mean(0)
    return mean.unflatten(1, tuple(size)).unsqueeze(1)


def shuffle_mask(mask, seeds):
    """The mask with its positions permuted: as uneven as before, but in the wrong place (a control).

    Args:
        mask: shape (images, 1, height, width).
        seeds: one integer per image, so that row i does not depend on the batch.

    Returns:
        Tensor of the same shape, dtype and device.
    """
    flat = mask.flatten(1)
    orders = [torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(s)) for s in seeds]
    return flat.gather(1, torch.stack(orders).to(flat.device)).view_as(mask)
