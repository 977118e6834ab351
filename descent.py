"""Gradient descent for a batch in which every image has a loss, an optimiser state and an end of its own."""

import torch


def descend(pipe, start, loss, optimizer_class, lr, num_iters, target=None, gradients=1, edit_gradient=None):
    """Lower each image's loss; one at or below the target leaves the batch and is left alone from then on.

    Args:
        pipe: its `num_unet_gradients` counts what is spent.
        start: shape (images, ...).
        loss: from (those still in the batch, their places, a list) to a tensor with a loss an image.
        optimizer_class: Adam or AdamW.
        target: None makes all iterations.
        gradients: of single samples, that an image's loss costs.
        edit_gradient: changes a gradient (1, ...) in place before it is used.

    Returns:
        (values in the dtype of `start`, losses of each image before each update, lists).
    """
    leaves = [x.detach().float().clone().requires_grad_() for x in start.split(1)]
    optimizer, losses = optimizer_class(leaves, lr=lr), [[] for _ in leaves]
    active = list(range(len(leaves)))
    for _ in range(num_iters):
        with torch.enable_grad():
            values = loss(torch.cat([leaves[k] for k in active]).to(start.dtype), active)
        for k, value in zip(active, values.tolist(), strict=True):
            losses[k].append(value)
        keep = [target is None or losses[k][-1] > target for k in active]
        active = [k for k, kept in zip(active, keep, strict=True) if kept]
        if not active:
            break
        # Images that stopped get no gradient, and the optimiser leaves parameters without one alone.
        optimizer.zero_grad(set_to_none=True)
        with torch.enable_grad():
            chosen = values[torch.tensor(keep, device=values.device)].sum()
        for k, gradient in zip(active, torch.autograd.grad(chosen, [leaves[k] for k in active]), strict=True):
            if edit_gradient is not None:
                edit_gradient(gradient)
            leaves[k].grad = gradient
        pipe.num_unet_gradients += gradients * len(keep)
        optimizer.step()
    return torch.cat(leaves).detach().to(start.dtype), losses
