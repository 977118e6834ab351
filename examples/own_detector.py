"""A detector of your own in one file: how much of the noise difference lies in its brightest tenth.

python detect_mem.py --plugin examples/own_detector.py --scores top_share
python eval_mem.py report det_outputs/test_ours.jsonl --plugin examples/own_detector.py
"""

import torch

from memorization.detectors.base import detector
from memorization.trace import Trace


@detector("top_share", keys={"top_share": "share of the top tenth"}, source="yours", steps=1)
def top_share(trace: Trace) -> dict[str, torch.Tensor]:
    """Share of noise_diff^2 at the first step that lies in the brightest tenth of positions."""
    values = trace.diff_maps[0].flatten(1).sort(1, descending=True).values  # (images, positions)
    top = values[:, : max(1, values.shape[1] // 10)].sum(1)
    return {"top_share": top / values.sum(1)}
