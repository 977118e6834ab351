"""."""

from dataclasses import dataclass

from memorization.detectors.anisotropy import anisotropy
from memorization.detectors.attention import attention_entropy
from memorization.detectors.curvature import PROBES, curvature_diff, hessian_score, score_change, sharpness
from memorization.detectors.noise_difference import early_masked_norm
from memorization.detectors.tokens import token_significance

TILED, MOTION = "tiled_l2", "broken_memories"  # measured on finished images, and against a calibration run


@dataclass(frozen=True)
class Signal:
    """A signal that `--scores` can ask for.

    Attributes:
        function: from a `Trace` to a dict of (images,) tensors by row key.
        steps: how many of the first steps it needs; None needs the last.
        attention: whether it needs `Trace.stores`.
        cost: (evaluations, gradients or tangents) of single samples an image, beyond the generation.
        source: where it was published.
        prefix: of its row keys, where that is not its name.
    """

    function: object
    steps: int | None
    attention: bool = False
    cost: tuple = (0, 0)
    source: str = ""
    prefix: str = ""


SIGNALS = {
    "attention_entropy": Signal(attention_entropy, None, attention=True, source="Ren et al., ECCV 2024"),
    "sharpness": Signal(sharpness, 1, cost=(2, 2), source="Jeon et al., ICML 2025"),
    "curvature_diff": Signal(curvature_diff, 1, cost=(2, 2), source="early-detection study, 2026"),
    "score_change": Signal(score_change, 3, source="early-detection study, 2026"),
    "anisotropy": Signal(anisotropy, 1, cost=(2, 0), source="Asthana and Belagiannis, ICLR 2026"),
    "hessian_map": Signal(hessian_score, None, cost=(2, 2 * PROBES), source="Kim and Lee, ICML 2026"),
    "token_significance": Signal(token_significance, 3, cost=(3, 3), source="Wen et al., ICLR 2024"),
    "noise_diff_map": Signal(
        early_masked_norm, 1, source="Kim and Lee, ICML 2026; as a mask ours", prefix="text_noise_norm_early_masked"
    ),
}
