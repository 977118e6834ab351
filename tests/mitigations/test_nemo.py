"""NeMo against the released rules, written out by hand: sets of neurons, structural similarity, gate, refinement."""

import numpy as np
import pytest
import torch

from helpers.pipelines import make_pipeline
from memorization import InputError
from memorization.mitigations import nemo
from memorization.mitigations.batch import ImageBatch, MitigationOptions, plain_generation
from memorization.mitigations.nemo import NeuronEffect, candidate_neurons, find_neurons, largest_similarities, refine
from memorization.mitigations.structural_similarity import multiscale_similarity, number_of_scales
from memorization.mitigations.value_neurons import deviations, value_layers, values_scaled

PROMPT, CAPTIONS = "the golden owl mug", ["a small blue square", "the silver castle", "green dots", "an orange fish"]


@pytest.fixture(scope="module")
def tiny():
    return make_pipeline(latent=12)


def values_by_hand(pipe, prompts):
    """By layer the mean over 77 tokens of the values' sizes, (prompts, channels)."""
    text = pipe.encode(prompts)[0].double().numpy()
    assert text.shape[1] == 77
    modules = dict(pipe.unet.named_modules())
    names = [f"down_blocks.0.attentions.{k}" for k in range(2)] + ["mid_block.attentions.0"]
    weights = [modules[f"{n}.transformer_blocks.0.attn2.to_v"].weight.double().numpy() for n in names]
    return [np.abs(text @ w.T).mean(1) for w in weights]


def test_neurons_are_chosen_on_both_sides_or_as_the_largest_of_their_layer(tiny):
    """Down before mid; those beyond theta in order and then the k largest, some of them twice."""
    ordinary, own = values_by_hand(tiny, CAPTIONS), values_by_hand(tiny, [PROMPT])
    sets = list(candidate_neurons(tiny, tiny.encode(CAPTIONS)[0], tiny.encode([PROMPT])[0]))
    assert len(sets) == 16
    below = 0
    for k, found in enumerate(sets):
        theta = 5 - 0.25 * k
        for usual, (a,), neurons in zip(ordinary, own, found, strict=True):
            z = (a - usual.mean(0)) / usual.std(0, ddof=1)
            beyond = [i for i in range(len(a)) if abs(z[i]) > theta]
            assert neurons == beyond + sorted(range(len(a)), key=lambda i: -a[i])[:k]
            below += sum(z[i] < 0 for i in beyond)
    assert below > 0
    assert [len(layer) for layer in found] == [
        sum(abs((a - u.mean(0)) / u.std(0, ddof=1)) > 1.25) + 15 for u, (a,) in zip(ordinary, own, strict=True)
    ]


def test_deviations_need_two_captions(tiny):
    text = tiny.encode([PROMPT])[0]
    with pytest.raises(InputError, match="two are needed, not 1"):
        deviations(tiny, text, text)


def similarity_by_hand(a, b, scales):
    """MS-SSIM of one pair in numpy, windows one by one, in the way of torchmetrics; a and b (channels, size, size)."""
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    product = 1.0
    for scale in range(scales):
        data_range = max(np.ptp(a), np.ptp(b))
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        size, contrasts, similarities = a.shape[1], [], []
        padded = [np.pad(x, ((0, 0), (5, 5), (5, 5)), mode="reflect") for x in (a, b)]
        for c in range(len(a)):
            for i in range(size):
                for j in range(size):
                    x, y = (p[c, i : i + 11, j : j + 11] for p in padded)
                    mx, my = (window * x).sum(), (window * y).sum()
                    vx, vy = (window * x * x).sum() - mx**2, (window * y * y).sum() - my**2
                    structure = (2 * ((window * x * y).sum() - mx * my) + c2) / (vx + vy + c2)
                    similarities.append(structure * (2 * mx * my + c1) / (mx**2 + my**2 + c1))
                    if 5 <= i < size - 5 and 5 <= j < size - 5:
                        contrasts.append(structure)
        term = np.mean(similarities) if scale == scales - 1 else np.mean(contrasts)
        product *= max(term, 0) ** (0.99 / scales)
        half = size // 2
        a, b = (x[:, : 2 * half, : 2 * half].reshape(len(x), half, 2, half, 2).mean((2, 4)) for x in (a, b))
    return product


@pytest.mark.parametrize(("size", "scales"), [(44, 3), (12, 2)])
def test_structural_similarity_by_hand(size, scales):
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(1, 2, size, size, generator=generator)
    b = 0.7 * a + 0.3 * torch.rand(a.shape, generator=generator)
    assert number_of_scales(size, size) == scales
    expected = similarity_by_hand(a[0].double().numpy(), b[0].double().numpy(), scales)
    assert multiscale_similarity(a, b, scales).item() == pytest.approx(expected, abs=1e-5)
    assert multiscale_similarity(a, a, scales).item() == pytest.approx(1)


def test_scales_that_fit():
    assert [number_of_scales(n, n) for n in (8, 10, 11, 12, 16, 43, 44, 64, 96)] == [0, 0, 1, 2, 2, 2, 3, 3, 3]


def test_the_gate_lets_through_noises_that_resemble_another():
    """Two of four maps are nearly the same."""
    maps = torch.rand(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    maps[2] = maps[0] + 0.01 * maps[1]
    found = largest_similarities(maps, 2)
    assert (found > 0.428).tolist() == [True, False, True, False]
    pair = torch.stack([maps[0], maps[0]]), torch.stack([maps[2], maps[3]])  # one range of all maps of the call
    assert found[0].item() == pytest.approx(multiscale_similarity(*pair, 2)[0].item(), abs=1e-3)


def test_what_is_compared_by_hand(tiny, monkeypatch):
    """The conditional output at the second of 50 timesteps on unmoved noise, some neurons off, less that noise."""
    monkeypatch.setattr(nemo, "GATE", -1)
    text = tiny.encode([PROMPT])[0]
    effect = NeuronEffect(tiny, text, (4, 12, 12))
    noises = torch.randn(10, 4, 12, 12, generator=torch.Generator().manual_seed(1))
    off = [[1, 5], [], [3, 3]]
    handles = []
    for layer, neurons in zip(value_layers(tiny.unet).values(), off, strict=True):

        def switch_off(module, inputs, output, neurons=neurons):
            output[:, :, neurons] *= 0.0
            return output

        handles.append(layer.register_forward_hook(switch_off))
    tiny.scheduler.set_timesteps(50)
    with torch.no_grad():
        output = tiny.unet(noises, tiny.scheduler.timesteps[1], encoder_hidden_states=text.expand(10, -1, -1))[0]
    for handle in handles:
        handle.remove()
    expected = (output - noises).numpy()
    low, high = expected.min((2, 3), keepdims=True), expected.max((2, 3), keepdims=True)
    np.testing.assert_allclose(effect.differences(off), (expected - low) / (high - low), atol=1e-5)


class MadeUpEffect:
    """Similarity falls with what is off: `weights` by layer and neuron; `calls` are the sets that were asked for."""

    def __init__(self, weights):
        self.weights, self.layers, self.calls = weights, list(weights), []

    def similarity(self, neurons):
        self.calls.append([list(some) for some in neurons])
        return 1 - sum(self.weights[k].get(n, 0) for k, some in enumerate(neurons) for n in set(some))


def test_refinement_puts_back_layers_from_the_last_and_then_neurons():
    effect = MadeUpEffect({0: {1: 0.5, 2: 0.05}, 1: {7: 0.3, 8: 0.02}, 2: {4: 0.1}})
    assert refine(effect, [[1, 2], [7, 8], [4]], 0.428) == [[1], [7], []]
    assert effect.calls == [
        *([[1, 2], [7, 8], []], [[1, 2], [], []], [[], [7, 8], []]),  # layers
        *([[1, 2], [8], []], [[1, 2], [7], []]),  # neurons of the second
        *([[2], [7], []], [[1], [7], []]),  # and of the first
    ]


def test_a_neuron_that_is_there_twice_gets_two_turns_and_equality_puts_nothing_back():
    """Its first turn changes nothing; at a threshold that is only just reached it is never put back."""
    assert refine(MadeUpEffect({0: {1: 0.9, 2: 0.0}}), [[1, 2, 2]], 0.428) == [[1]]
    exact = MadeUpEffect({0: {1: 0.5, 2: 0.0}})
    assert refine(MadeUpEffect({0: {1: 0.5}, 1: {7: 0.0}}), [[1], [7]], 0.5) == [[1], [7]]  # nor a layer
    assert refine(exact, [[1, 2, 2]], 0.5) == [[1, 2, 2]] and refine(exact, [[1, 2]], 0.5) == [[1, 2]]


@pytest.mark.parametrize(("reached_at", "threshold"), [(0, 0.428), (3, 0.428), (None, 0.5)])
def test_rounds_end_at_the_target_or_with_the_sixteenth(tiny, monkeypatch, reached_at, threshold):
    """Where no set is enough, what the last one comes to is kept up by the refinement."""
    seen = []

    class Effect(MadeUpEffect):
        is_memorized = True

        def __init__(self, pipe, text, shape):
            super().__init__({})

        def similarity(self, neurons):
            seen.append(neurons)
            return 0.4 if len(seen) - 1 == reached_at else 0.5

    monkeypatch.setattr(nemo, "NeuronEffect", Effect)
    monkeypatch.setattr(nemo, "refine", lambda effect, neurons, threshold: [neurons, threshold])
    ordinary, text = tiny.encode(CAPTIONS)[0], tiny.encode([PROMPT])[0]
    found = find_neurons(tiny, ordinary, text, (4, 12, 12), 0.428)
    sets = list(candidate_neurons(tiny, ordinary, text))
    assert found.neurons == [sets[15 if reached_at is None else reached_at], threshold]
    assert len(seen) == (16 if reached_at is None else reached_at + 1)


def batch_of(pipe, prompts):
    text, negative = pipe.encode(prompts)
    return ImageBatch(pipe.initial_latents([1, 2, 3]), [1, 2, 3], list(text.split(1)), negative[:1])


def test_a_prompt_that_is_not_memorized_is_let_be(tiny, monkeypatch):
    monkeypatch.setattr(nemo, "GATE", 2)
    images = batch_of(tiny, [PROMPT, CAPTIONS[0], PROMPT])
    options = MitigationOptions(7, 2, ordinary_text=tiny.encode(CAPTIONS)[0])
    found = nemo.memorization_neurons_off(tiny, options, images, 0.428)
    assert torch.equal(found.latents, plain_generation(tiny, options, images).latents)
    assert found.triggered == [False] * 3 and found.unet_evals == [4 + 10, 4 + 10, 4]  # a prompt is looked at once


def test_neurons_are_off_in_both_branches_of_their_own_images(tiny, monkeypatch):
    monkeypatch.setattr(nemo, "find_neurons", lambda pipe, ordinary, text, shape, target: looked_at[text_key(text)])
    options = MitigationOptions(7, 2, ordinary_text=tiny.encode(CAPTIONS)[0])
    images = batch_of(tiny, [PROMPT, CAPTIONS[0], PROMPT])

    def text_key(text):
        return tuple(text[0, 2, :3].tolist())

    looked_at = {
        text_key(images.embeds()[:1]): nemo.PromptNeurons([[0, 3], [2], [5]], 30, True),
        text_key(images.embeds()[1:2]): nemo.PromptNeurons([[], [], []], 10, False),
    }
    found = nemo.memorization_neurons_off(tiny, options, images, 0.428)
    plain = plain_generation(tiny, options, images).latents
    assert torch.equal(found.latents[1], plain[1]) and found.triggered == [True, False, True]
    masks = {name: torch.ones(1, layer.out_features) for name, layer in value_layers(tiny.unet).items()}
    for mask, off in zip(masks.values(), ([0, 3], [2], [5]), strict=True):
        mask[:, off] = 0
    with values_scaled(tiny.unet, masks):  # of every branch and image
        alike = plain_generation(tiny, options, images).latents
    torch.testing.assert_close(found.latents[[0, 2]], alike[[0, 2]], rtol=0, atol=1e-5)
    assert (alike[0] - plain[0]).abs().max() > 1e-4


def test_latents_smaller_than_the_window_are_refused():
    pipe = make_pipeline(latent=8)
    with pytest.raises(InputError, match="windows of 11 positions, and latents of 8 x 8"):
        NeuronEffect(pipe, pipe.encode([PROMPT])[0], (4, 8, 8))
