"""Multi-scale descriptors: the mean of what a network gives for pictures as they are and for smaller ones.

As Somepalli et al. (CVPR 2023) describe pictures on demand, after DINO's copy detection (Caron et al., ICCV 2021). The
network is shown its input resized, so it has to take pictures of several sizes.
"""

from collections.abc import Callable

import torch

from memorization.errors import first_line

SCALES = (1.0, 2**-0.5, 0.5)  # of the sides of what the network is shown
TOLD = ", scales " + " ".join(f"{scale:.3g}" for scale in SCALES)  # after the name of the preprocessing

Network = Callable[[torch.Tensor], torch.Tensor]  # from float (pictures, 3, height, width) to (pictures, dim)


def mean_over_scales(network: Network, batch: torch.Tensor) -> torch.Tensor:
    """Mean of a network's features over `SCALES`, (pictures, dim).

    Args:
        batch: float (pictures, 3, height, width).

    Raises:
        ValueError: one line, if the network takes pictures of one size only.
    """
    found = network(batch)
    for scale in SCALES[1:]:
        size = [max(1, int(side * scale)) for side in batch.shape[-2:]]
        smaller = torch.nn.functional.interpolate(batch, size=size, mode="bilinear", align_corners=False)
        try:
            found = found + network(smaller)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # of TorchScript, ONNX or transformers, which raise different kinds
            shown = " x ".join(map(str, size))
            told = f"takes no pictures of {shown} pixels, which --multiscale shows it: leave --multiscale out"
            raise ValueError(f"the network {told} ({first_line(error)[:200]})") from error
    return found / len(SCALES)
