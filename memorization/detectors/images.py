"""How alike the finished images of one prompt are."""

import torch
import torch.nn.functional as F

from memorization.detectors.base import detector
from memorization.released import SD1, SD2

TILES = 4  # a side


@detector(
    "tiled_l2",
    keys={"tiled_l2": "tiled_l2"},
    source="Carlini et al., USENIX Security 2023",
    of_images=True,
    released={SD1: {"tiles": TILES}, SD2: {"tiles": TILES}},
)
def tiled_l2(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """How alike the images of a prompt are, tile by tile; needs two or more.

    Args:
        images: uint8 tensor (images, height, width, 3) of one prompt.
    """
    return {"tiled_l2": tiled_distance(images)}


def tiled_distance(images: torch.Tensor, tiles: int = TILES) -> torch.Tensor:
    """-(smallest tile-wise L2 distance of each image to another one of its prompt), (images,).

    Carlini et al. (USENIX Security 2023): the distance of two images is the largest over non-overlapping tiles of
    their root mean square difference, so that a common background alone does not make two images alike; tiles are
    a quarter of the side, 128 pixels of 512. Alike images are the sign, hence the minus.

    Args:
        images: uint8 tensor (images, height, width, 3), at least two.
    """
    pixels = images.float().permute(0, 3, 1, 2) / 255
    squares = [F.avg_pool2d((pixels - p).square().mean(1, keepdim=True), pixels.shape[-1] // tiles) for p in pixels]
    distances = torch.stack([s.amax((1, 2, 3)).sqrt() for s in squares])
    distances.fill_diagonal_(torch.inf)
    return -distances.amin(1)
