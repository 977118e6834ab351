"""Each published detector against the rule of its released code, written here by hand, to 1e-5.

The UNet is called directly, in float64. Nothing of the detectors is used but for the seeds of their random numbers.
"""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from attn_utils import cross_attention_layers, down_cross_layers
from helpers.pipelines import make_pipeline
from memorization.detectors.base import DETECTORS
from memorization.observation import Recorded, make_inputs, observe_batches
from memorization.seeds import derived_seed
from memorization.trace import Calibration

PROMPTS, SEEDS, STEPS, GUIDANCE = ["the golden owl mug", "a large red heart"], [[3, 4], [5, 6]], 10, 7.5
NAMES = [name for name, d in DETECTORS.items() if not (d.of_images or d.needs_base)]


class ByHand:
    """A run in the open: the UNet, DDIM's own numbers and two loops."""

    def __init__(self, kind):
        self.pipe = make_pipeline(kind, latent=8)
        self.pipe.unet.double()
        self.kind, self.alphas = kind, self.pipe.scheduler.alphas_cumprod
        made = make_inputs(self.pipe, PROMPTS, SEEDS)
        self.inputs = replace(made, embeds=tuple(e.double() for e in made.embeds))
        self.empty, self.text = self.inputs.embeds
        self.attention = {}
        self.run()

    def unet(self, x, t, text):
        return self.pipe.unet(x, torch.tensor(t), encoder_hidden_states=text, return_dict=False)[0]

    def eps(self, x, t, text):
        out, a = self.unet(x, t, text), self.alphas[t]
        return out if self.kind == "epsilon" else a.sqrt() * out + (1 - a).sqrt() * x

    def pair(self, x, t):
        return self.eps(x, t, self.empty), self.eps(x, t, self.text)

    def sigma(self, t):
        return (1 - self.alphas[t]).sqrt()

    @torch.no_grad()
    def run(self):
        """Guided DDIM without noise; x_t, the two predictions and the next x of every step are kept."""
        jump = 1000 // STEPS
        self.timesteps = [jump * k + 1 for k in reversed(range(STEPS))]
        x, self.steps = self.inputs.latents, []
        for k, t in enumerate(self.timesteps):
            with self.watched_attention(k):
                u, c = self.pair(x, t)
            a = self.alphas[t]
            before = self.alphas[t - jump] if t > jump else self.alphas[0]
            eps = u + GUIDANCE * (c - u)
            x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
            after = before.sqrt() * x0 + (1 - before).sqrt() * eps
            self.steps.append({"t": t, "x": x, "u": u, "c": c, "x0": x0, "next": after})
            x = after

    def watched_attention(self, step):
        return Watched(self.pipe.unet, self.attention.setdefault(step, []))


class Watched:
    """Softmax of each cross-attention layer of the calls inside, in the order in which they are made."""

    def __init__(self, unet, found):
        self.unet, self.found = unet, found

    def __enter__(self):
        layers = [m for name, m in self.unet.named_modules() if name.endswith("attn2")]
        self.hooks = [m.register_forward_hook(self.see, with_kwargs=True) for m in layers]

    def see(self, layer, args, kwargs, output):
        q = layer.to_q(args[0]).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        k = layer.to_k(kwargs["encoder_hidden_states"]).unflatten(2, (layer.heads, -1)).transpose(1, 2)
        probs = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1)
        self.found.append(probs.mean((1, 2)))

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def hand(request):
    return ByHand(request.param)


@pytest.fixture(scope="module")
def found(hand):
    """Everything that the detectors say of the same images, and the mask that they weigh with."""
    pipe = hand.pipe
    recorded = Recorded(down_cross_layers(pipe.unet), cross_attention_layers(pipe.unet))
    names = [f"{kind}_norm" for kind in ("latent", "update", "x0")]
    calibration = Calibration({n: torch.full((STEPS,), 9.0) for n in names}, dict.fromkeys(names, torch.ones(STEPS)))
    return observe_batches(
        pipe, hand.inputs, 4, recorded, detectors=[DETECTORS[n] for n in NAMES], calibration=calibration,
        num_inference_steps=STEPS, guidance_scale=GUIDANCE,
    )  # fmt: skip


def norm(x):
    return x.flatten(1).norm(dim=1)


def same(value, expected, rtol=1e-5):
    torch.testing.assert_close(value.double(), expected.double(), rtol=rtol, atol=1e-7)


def test_the_generation_is_the_one_by_hand(hand, found):
    same(found.latents, hand.steps[-1]["next"])


def test_d_and_ld(hand, found):
    """Wen et al.; Chen et al., equation 8, with the mask of the generation itself."""
    diffs = torch.stack([s["c"] - s["u"] for s in hand.steps], 1)
    same(found.scores["text_noise_norm"], diffs.flatten(2).norm(dim=2))
    weighed = (diffs * found.mask[:, None]).flatten(2).norm(dim=2) / found.mask.mean((1, 2, 3))[:, None]
    same(found.scores["text_noise_norm_masked"], weighed)


def test_score_diff(hand, found):
    """Kim and Lee: ((eps_c - eps_u) / sigma)^2, summed over channels, at the last step; its spatial mean."""
    last = hand.steps[-1]
    scores = (-last["c"] / hand.sigma(last["t"]), -last["u"] / hand.sigma(last["t"]))
    same(found.scores["score_diff"], ((scores[0] - scores[1]) ** 2).sum(1).mean((1, 2)))


def test_hessian_map(hand, found):
    """Kim and Lee: sixteen probes of +-1, v * J^T v of s = -eps, channels summed, minus, ReLU; over sigma here."""
    last = hand.steps[-1]
    x = last["x"].clone().requires_grad_()
    u, c = hand.pair(x, last["t"])
    diagonal = torch.zeros_like(x)
    seeds = [derived_seed(s, "hessian_map") for some in SEEDS for s in some]
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    for _ in range(16):
        v = torch.stack([2.0 * torch.randint(2, (4, 8, 8), generator=g) - 1 for g in generators]).double()
        (product,) = torch.autograd.grad((-(c - u) * v).sum(), x, retain_graph=True)
        diagonal += v * product / 16
    expected = (-diagonal.sum(1)).relu() / hand.sigma(last["t"])
    same(found.found_maps["hessian_map"], expected)
    same(found.scores["hessian_map"], expected.mean((1, 2)))


def test_sharpness(hand, found):
    """Jeon et al.: norm of the Jacobian-vector product of s_c - s_u with itself; here by twice transposing."""
    first = hand.steps[0]
    x, sigma = first["x"].clone().requires_grad_(), hand.sigma(first["t"])
    with sdpa_kernel(SDPBackend.MATH):  # the only kernel that can be derived twice
        u, c = hand.pair(x, first["t"])
        diff = -(c - u) / sigma
        dummy = torch.zeros_like(diff, requires_grad=True)
        (transposed,) = torch.autograd.grad((diff * dummy).sum(), x, create_graph=True)
        (product,) = torch.autograd.grad((transposed * diff.detach()).sum(), dummy)
    same(found.scores["sharpness"], norm(product))


def test_curvature_diff(hand, found):
    """The study's Metric 2 is the square: gradients of both energies, one by one."""
    first = hand.steps[0]
    x = first["x"].clone().requires_grad_()
    energies = [(e**2).sum() / 2 for e in hand.pair(x, first["t"])]
    u, c = (torch.autograd.grad(e, x, retain_graph=True)[0] for e in energies)
    same(found.scores["curvature_diff"] ** 2, ((c - u) ** 2).sum((1, 2, 3)))


def test_score_change_old_and_new(hand, found):
    """DSM of both releases: of eps_c alone; and of the gap of the scores, each over its own sigma."""
    for k in (1, 2):
        a, b = hand.steps[k - 1], hand.steps[k]
        # A sixtieth of the noise changes, which is rounded to float32 before.
        same(found.scores[f"score_change_{k}"], ((b["c"] - a["c"]) ** 2).sum((1, 2, 3)), rtol=2e-5)
        gaps = [(-s["c"] / hand.sigma(s["t"])) - (-s["u"] / hand.sigma(s["t"])) for s in (a, b)]
        same(found.scores[f"score_gap_change_{k}"], ((gaps[1] - gaps[0]) ** 2).sum((1, 2, 3)))


def test_anisotropy(hand, found):
    """Asthana and Belagiannis: gamma 2 at 4 x 64 x 64, so 0.25 at 4 x 8 x 8; for v the cosine is that of v."""
    x, t, low = hand.inputs.latents, hand.timesteps[0], hand.timesteps[-3]
    a, gamma = hand.alphas[t].double(), 0.25
    with torch.no_grad():
        u, c = (hand.unet(x, low, e) for e in hand.inputs.embeds)
        first = [hand.unet(x, t, e) for e in hand.inputs.embeds]
        cosine = F.cosine_similarity(u, c - u, dim=1).mean((1, 2))
        if hand.kind == "epsilon":
            expected = norm(first[1] - first[0])
        else:  # their branch for Stable Diffusion 2: (alpha v - x) / sigma^2
            u, c = ((a.sqrt() * v - x) / (1 - a) for v in first)
            expected = norm(c - u)
    same(found.scores["anisotropy_cosine"], cosine)
    same(found.scores["anisotropy"], expected + gamma * cosine)
    eps = [e.detach() for e in hand.pair(x, low)]
    of_noise = F.cosine_similarity(eps[0], eps[1] - eps[0], dim=1).mean((1, 2))
    d = norm(hand.steps[0]["c"] - hand.steps[0]["u"])
    same(found.scores["anisotropy_noise"], d + gamma * of_noise)


def text_calls(hand, step):
    """Each layer's shares, (images, tokens), in the order of the calls of the second branch."""
    calls = hand.attention[step]
    return calls[len(calls) // 2 :]


def entropy(shares):
    return -(shares * shares.log()).sum(-1)


def test_attention_entropy(hand, found):
    """Ren et al.: mean over layers and heads; from the end token on is the summary; the last fifth of the steps."""
    means = [torch.stack(text_calls(hand, k)).mean(0) for k in range(STEPS)]
    ends = [len(hand.pipe.tokenizer(p).input_ids) - 1 for p in PROMPTS for _ in range(2)]
    late, released, absolute, padding = (8, 9), [], [], []
    for i, end in enumerate(ends):
        first = entropy(means[0][i, end:])
        grown = [entropy(means[k][i, end:]) - first for k in late]
        whole = sum(entropy(means[k][i]) for k in late) / 2
        released.append(whole + sum(grown) / 2)
        absolute.append(whole + sum(g.abs() for g in grown) / 2)
        padding.append(sum(entropy(means[k][i, end:]) - entropy(means[k][i, :end]) for k in late) / 2)
    same(found.scores["attention_entropy"], torch.stack(released))
    same(found.scores["attention_entropy_absolute"], torch.stack(absolute))
    same(found.scores["attention_entropy_padding"], torch.stack(padding))


def test_attention_entropy_of_the_fourth_layer_that_is_called(hand, found):
    """Here the first of the up blocks, though the names of the up blocks' layers come before the middle's."""
    fourth = text_calls(hand, 0)[3]
    assert cross_attention_layers(hand.pipe.unet)[3] != "up_blocks.1.attentions.0.transformer_blocks.0.attn2.processor"
    same(found.scores["attention_entropy_layer"], entropy(fourth))
    same(found.scores["attention_concentration"], -entropy(fourth))


def test_condition_jacobian(hand, found):
    """One Gaussian probe, x_T, the first of 1000 timesteps, the raw output of the conditional branch."""
    hand.pipe.scheduler.set_timesteps(1000)
    t = int(hand.pipe.scheduler.timesteps[0])
    text = hand.text.clone().requires_grad_()
    output = hand.unet(hand.inputs.latents, t, text)
    seeds = [derived_seed(s, "condition_jacobian") for some in SEEDS for s in some]
    v = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
    (gradient,) = torch.autograd.grad((output * v).sum(), text)
    same(found.scores["condition_jacobian"], gradient.flatten(1).square().sum(1).sqrt())


def test_token_significance(hand, found):
    """Wen et al.: gradient of D by the conditional embedding, per token; the mean over three guided steps."""
    total = 0
    for s in hand.steps[:3]:
        text = hand.text.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(norm(hand.eps(s["x"], s["t"], text) - s["u"]).sum(), text)
        total = total + gradient.norm(dim=2) / 3
    ends = [len(hand.pipe.tokenizer(p).input_ids) - 1 for p in PROMPTS for _ in range(2)]
    words = torch.stack([total[i, 1:end].sum() for i, end in enumerate(ends)])
    same(found.scores["token_significance_words"], words)
    same(found.scores["token_significance_end"], torch.stack([total[i, end] for i, end in enumerate(ends)]))


def test_broken_memories(hand, found):
    """Both z-scores at one step; ours one-sided, the rewrite's absolute. Ordinary images: mean 9, deviation 1."""
    update, x0 = (
        torch.stack([norm(x) for x in kind], 1) - 9
        for kind in ([s["next"] - s["x"] for s in hand.steps], [s["x0"] for s in hand.steps])
    )
    same(found.scores["broken_memories"], torch.minimum(update, x0).amax(1))
    same(found.scores["broken_memories_absolute"], torch.minimum(update.abs(), x0.abs()).amax(1))
    assert (found.scores["broken_memories_absolute"] > found.scores["broken_memories"]).any()


def test_end_token_attention(hand, found):
    """Chen et al.: attention to the first end token at the last step, mean over the finest down layers and heads."""
    ends = [len(hand.pipe.tokenizer(p).input_ids) - 1 for p in PROMPTS for _ in range(2)]
    layers = torch.stack(text_calls(hand, STEPS - 1)[:2]).mean(0)
    same(found.scores["end_token_attention"], torch.stack([layers[i, end] for i, end in enumerate(ends)]))
