"""FID and KID by torchmetrics, where the package and the weights of its Inception network are there."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from memorization.errors import first_line

SUBSETS, SUBSET_SIZE = 100, 1000  # of KID, as torchmetrics has them; a smaller set is one subset's size
BATCH = 32  # images per call of the network


class InceptionDistances:
    """Frechet (Heusel et al., NeurIPS 2017) and kernel Inception distance (Binkowski et al., ICLR 2018); lower = alike.

    FID is biased upwards, and of fewer images than Inception's 2048 features its covariance has no full rank: only
    numbers of equally many images compare. KID is unbiased.
    """

    description = "Inception of torchmetrics, 2048 features"

    def __init__(self, device: str | torch.device = "cpu"):
        """
        Raises:
            ValueError: one line, if the packages or the weights are not there.
        """
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
            from torchmetrics.image.kid import KernelInceptionDistance

            self.network = FrechetInceptionDistance(feature=2048).inception
        except Exception as error:  # no package, or no way to the weights
            told = 'pip install "memorization[quality]", which fetches its weights once, or leave out --fid'
            raise ValueError(f"no FID and KID: {first_line(error)}; {told}") from error
        self.fid_class, self.kid_class, self.device = FrechetInceptionDistance, KernelInceptionDistance, device

    @torch.no_grad()
    def __call__(
        self, sets: Mapping[str, Iterable[np.ndarray]], ordinary: Iterable[np.ndarray]
    ) -> dict[str, dict[str, float]]:
        """`fid` and `kid` of every set by its name, NaN for a set of a single image.

        Args:
            sets, ordinary: uint8 arrays (images, height, width, 3), looked at one after another.
        """
        kept: dict[str, Any] = {"feature": self.network, "reset_real_features": False}
        fid = self.fid_class(**kept).to(self.device)
        kid = self.kid_class(**kept, subsets=SUBSETS).to(self.device)
        num_ordinary, found = self.show(ordinary, (fid, kid), real=True), {}
        for name, images in sets.items():
            count = min(self.show(images, (fid, kid), real=False), num_ordinary)
            kid.subset_size = min(SUBSET_SIZE, count)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)  # which images each subset of KID has
                enough = count > 1
                found[name] = {"fid": float(fid.compute()), "kid": float(kid.compute()[0])} if enough else NEITHER
            fid.reset()
            kid.reset()
        return found

    def show(self, images: Iterable[np.ndarray], metrics: Iterable[Any], real: bool) -> int:
        """Let both metrics see images; returns how many."""
        count = 0
        for some in images:
            for start in range(0, len(some), BATCH):
                batch = torch.from_numpy(some[start : start + BATCH].copy()).permute(0, 3, 1, 2).to(self.device)
                for metric in metrics:
                    metric.update(batch, real=real)
            count += len(some)
        return count


NEITHER = {"fid": float("nan"), "kid": float("nan")}
