"""Published detection signals, each a function of one generation's `Trace`; higher = memorized, a number an image.

All read the same predictions: a signal costs what it evaluates beyond the generation, nothing where it only looks.
Of several readings that a paper leaves open, the docstring says which one is implemented.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from generation_trace import FIRST_STEPS
from metrics import noise_diff_norm, norms_from_maps

LOW_NOISE = -3  # of the timesteps: where anisotropy looks at the initial noise a second time
GAMMA = {1024: 0.1}  # weight of the cosine by width of the text features: 1024 is Stable Diffusion 2
GAMMA_SD1 = 2.0
PROBES = 16
TILED, MOTION = "tiled_l2", "broken_memories"  # measured on finished images, and against a calibration run
ENTROPY_LAYER = 3  # the fourth cross-attention layer, from 0


def score_scale(pipe, t):
    """d score / d noise at a timestep: the score is -eps / sqrt(1 - alphas_cumprod)."""
    return -1 / (1 - pipe.scheduler.alphas_cumprod[t]).sqrt()


def sharpness(trace):
    """Norm of (H_text - H_uncond) s_diff at the first step, by one Jacobian-vector product.

    Jeon et al. (ICML 2025): H is the Jacobian of the score s, s_diff = s_text - s_uncond. Their released code
    takes this norm, the paper its square; the ranking is the same.

    Costs two evaluations with tangents an image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    scale = score_scale(pipe, step.timestep)

    def score_diff(latents):
        return scale * pipe.predict_noise(latents, step.timestep, trace.embeds).diff()

    with sdpa_kernel(SDPBackend.MATH):  # the fast kernels have no forward derivative
        _, product = torch.func.jvp(score_diff, (step.latents,), (scale * step.noise_diff,))
    pipe.num_unet_gradients += 2 * len(step.latents)
    return {"sharpness": product.float().flatten(1).norm(dim=1)}


def curvature_diff(trace):
    """Norm of `curvature_gradient`: grad ||eps_text||^2 / 2 - grad ||eps_uncond||^2 / 2 at the first step.

    Of an anonymous early-detection study of 2026. Costs two evaluations with gradients an image.
    """
    return {"curvature_diff": curvature_gradient(trace).float().flatten(1).norm(dim=1)}


def curvature_gradient(trace):
    """That gradient over the latents, (images, channels, height, width); one backward pass gives the difference."""
    pipe, step = trace.pipe, trace.steps[0]
    with torch.enable_grad():
        latents = step.latents.detach().requires_grad_()
        prediction = pipe.predict_noise(latents, step.timestep, trace.embeds)
        text, uncond = (prediction.noise(b).square().sum() / 2 for b in (1, 0))
        (gradient,) = torch.autograd.grad(text - uncond, latents)
    pipe.num_unet_gradients += 2 * len(latents)
    return gradient


def score_change(trace):
    """||eps_text(x_1) - eps_text(x_0)||^2 along the guided trajectory, and the same from step 1 to 2.

    Of the same study as `curvature_diff`. Costs nothing beyond the first three steps.
    """
    noises = [trace.steps[k].prediction.noise(1).float() for k in (0, 1, 2)]
    changes = [(b - a).flatten(1).square().sum(1) for a, b in zip(noises, noises[1:], strict=False)]
    return {"score_change_1": changes[0], "score_change_2": changes[1]}


def anisotropy(trace):
    """D at the first timestep plus gamma times the mean cosine of eps_uncond and noise_diff at a low-noise timestep.

    Asthana and Belagiannis (ICLR 2026): both on the SAME initial noise. The cosine is that of the channel vectors,
    averaged over positions. gamma is 2 for Stable Diffusion 1 and 0.1 for 2, chosen on 20 memorized prompts by them.
    Costs two evaluations an image.
    """
    pipe, step = trace.pipe, trace.steps[0]
    pipe.scheduler.set_timesteps(trace.num_inference_steps)
    low = int(pipe.scheduler.timesteps[max(LOW_NOISE, -trace.num_inference_steps)])
    prediction = pipe.predict_noise(step.latents, low, trace.embeds)
    cosine = F.cosine_similarity(prediction.noise(0).float(), prediction.diff().float(), dim=1).mean((1, 2))
    gamma = GAMMA.get(trace.embeds[0].shape[-1], GAMMA_SD1)
    return {"anisotropy": noise_diff_norm(step.noise_diff) + gamma * cosine, "anisotropy_cosine": cosine}


def hessian_map(trace, num_probes=PROBES):
    """ReLU of the channel-summed diag(-H_text) - diag(-H_uncond) at the last step: (images, height, width).

    Kim and Lee (ICML 2026). The diagonal is estimated with Rademacher probes z as the mean of z * (J^T z)
    (Hutchinson); the probes of an image depend on its seed alone. Costs two evaluations and `num_probes` times
    two gradients an image.
    """
    pipe, step = trace.pipe, trace.last
    scale = score_scale(pipe, step.timestep)
    generators = [torch.Generator().manual_seed(seed) for seed in trace.seeds]
    diagonal = torch.zeros_like(step.latents, dtype=torch.float32)
    with torch.enable_grad():
        latents = step.latents.detach().requires_grad_()
        score_diff = scale * pipe.predict_noise(latents, step.timestep, trace.embeds).diff()
        for _ in range(num_probes):
            signs = torch.stack([torch.randint(2, latents.shape[1:], generator=g) for g in generators])
            probe = (2 * signs - 1).to(latents)
            (product,) = torch.autograd.grad(score_diff, latents, probe, retain_graph=True)
            diagonal -= (probe * product).float() / num_probes
    pipe.num_unet_gradients += 2 * num_probes * len(latents)
    return diagonal.sum(1).relu()


def hessian_score(trace):
    """Mean over positions of `hessian_map`, which `trace.found_maps` keeps for localisation."""
    trace.found_maps["hessian_map"] = hessian_map(trace)
    return {"hessian_map": trace.found_maps["hessian_map"].mean((1, 2))}


def token_gradients(trace):
    """Norm of the gradient of D with respect to each token of the CONDITIONAL embedding, (images, tokens).

    Wen et al. (ICLR 2024), token significance, as a mean over those of the first three steps that are kept, of a
    correctly guided trajectory; the released code steers away from the prompt there. Costs an evaluation and a
    gradient an image and step.
    """
    pipe, first = trace.pipe, [trace.steps[k] for k in sorted(trace.steps) if k < FIRST_STEPS]
    total = 0
    for step in first:
        with torch.enable_grad():
            text = trace.embeds[1].detach().requires_grad_()
            output = pipe.predict_noise(step.latents, step.timestep, (text,)).outputs[0]
            magnitude = noise_diff_norm(step.prediction.noise_scale * (output - step.prediction.outputs[0]))
            (gradient,) = torch.autograd.grad(magnitude.sum(), text)
        pipe.num_unet_gradients += len(text)
        total = total + gradient.float().norm(dim=2) / len(first)
    return total


def token_significance(trace):
    """`token_gradients` summed over the begin token, the words, the end token and the padding."""
    norms = token_gradients(trace)
    return {f"token_significance_{name}": (norms * group).sum(1) for name, group in token_groups(trace, norms).items()}


def token_groups(trace, like):
    """Which token is of which group: dict of bool (images, tokens)."""
    place = torch.arange(like.shape[1], device=like.device)[None]
    end = trace.tokens.to(like.device)[:, None]
    return {"bos": place == 0, "words": (place > 0) & (place < end), "end": place == end, "padding": place > end}


def entropy(shares, group=None):
    """-sum a log a over the tokens, or those of a group, of (images, tokens) attention shares: (images,)."""
    terms = -torch.special.xlogy(shares, shares)
    return (terms if group is None else terms * group).sum(1)


def attention_entropy(trace):
    """Entropy over tokens of the cross-attention averaged over heads, layers and positions (Ren et al., ECCV 2024).

    attention_entropy: mean over the last fifth of the steps of E_t + |E_t(padding) - E_0(padding)|, where
    E(padding) sums over the end token and all behind it, which the paper calls summary tokens; the paper has the
    absolute value, its code leaves it out. attention_entropy_layer: -E at the first step of the fourth layer
    alone, as low entropy is the sign there. attention_entropy_padding: E(padding) - E(prompt) in the last fifth.
    Costs nothing beyond the generation.
    """
    means = {k: torch.stack(list(s.maps.values())).mean(0) for k, s in trace.stores.items()}
    groups = token_groups(trace, means[0])
    summary = groups["end"] | groups["padding"]
    late = [k for k in means if k >= late_steps(trace.num_inference_steps)[0]]
    first, values, differences = entropy(means[0], summary), [], []
    for k in late:
        padding = entropy(means[k], summary)
        values.append(entropy(means[k]) + (padding - first).abs())
        differences.append(padding - entropy(means[k], ~summary))
    layers = list(trace.stores[0].maps.values())
    layer = layers[min(ENTROPY_LAYER, len(layers) - 1)]
    return {
        "attention_entropy": torch.stack(values).mean(0),
        "attention_entropy_layer": -entropy(layer),
        "attention_entropy_padding": torch.stack(differences).mean(0),
    }


def late_steps(num_inference_steps):
    """Indices of the last fifth of the steps, at least one."""
    return range(num_inference_steps - max(1, num_inference_steps // 5), num_inference_steps)


def early_masked_norm(trace):
    """LD(1) with the first step's own noise_diff^2 as the mask: a local score without a finished image (ours)."""
    first = trace.maps[0]
    return {"text_noise_norm_early_masked": norms_from_maps(first[None], first[:, None])[:, 0]}


def tiled_distance(images, tiles=4):
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


def motion_zscores(norms, calibration):
    """Largest over the steps of the lesser of the z-scores of update and predicted x_0, (images,).

    Broken Memories (Huang et al., KDD 2026) flags an image at the first step where both exceed 3; this is the
    threshold at which it would be flagged, so that any may be chosen afterwards.

    Args:
        norms: dict of (images, steps) by name, of `motion_norms`.
        calibration: by name (mean, standard deviation) over ordinary images, each (steps,).
    """
    scores = [(norms[n] - calibration[n][0]) / calibration[n][1] for n in ("update_norm", "x0_norm")]
    return torch.minimum(*scores).amax(1)


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


def signal_of(key):
    """Name of the signal that a row key belongs to; None for D, LD and what needs no signal."""
    return next((name for name, s in SIGNALS.items() if key.startswith(s.prefix or name)), None)


def is_published(key):
    """Whether a row key is of a signal that only --scores gives: one number an image, without steps."""
    return signal_of(key) is not None or key in (TILED, MOTION)


def score_cost(key, horizon, num_steps):
    """Evaluations an image that a score alone would take, with a gradient or tangent counted as two more.

    Args:
        key: of a row.
        horizon: first steps that are averaged; None for all.
        num_steps: of a whole generation.
    """
    signal = SIGNALS.get(signal_of(key))
    if key == "attention_entropy_layer":  # of the first step, unlike the others of its signal
        return 2
    if signal is not None:
        return 2 * (signal.steps or num_steps) + signal.cost[0] + 2 * signal.cost[1]
    return 2 * (horizon or num_steps) if key == "text_noise_norm" else 2 * num_steps
