"""Memorization neurons, found and switched off (NeMo; Hintersdorf et al.).

Order of operations, thresholds and ties as in the released code, whose lists may hold a neuron twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from memorization.errors import InputError
from memorization.mitigations.base import mitigation
from memorization.mitigations.batch import ImageBatch, Mitigated, MitigationOptions, always_acting
from memorization.mitigations.structural_similarity import multiscale_similarity, number_of_scales
from memorization.mitigations.value_neurons import activations, deviations, value_layers, values_scaled
from memorization.needs import CROSS_ATTENTION
from memorization.released import SD1, SD2

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

Neurons = list[list[int]]  # by layer, in the order in which they were chosen

GATE = 0.428  # of memorized prompts; mean and one standard deviation of 500 prompts that are not
SEED, SEEDS, STEPS = 1, 10, 50  # of the noise that is looked at, and of the schedule whose second timestep is taken
THETA, THETA_STEP, ROUNDS = 5.0, 0.25, 16  # the last theta tried is 1.25, with the 15 largest of each layer
MOST_NEURONS, LAYERS = 2 * (320 + 640 + 1280) + 1280, 7  # of Stable Diffusion
VALUES = {"strength": GATE, "gate": GATE, "noises": SEEDS, "theta": THETA, "theta step": THETA_STEP, "guidance": 7}


@dataclass(frozen=True)
class PromptNeurons:
    """What was found for one prompt.

    Attributes:
        neurons: to switch off, by layer; none where the prompt is not memorized.
        evals: evaluations that were spent.
        is_memorized: whether the noise differences of two seeds are as similar as the gate asks for.
    """

    neurons: Neurons
    evals: int
    is_memorized: bool


@mitigation(
    "nemo",
    knob="structural similarity to plain noise: lower is stronger, 0 is off",
    source="Hintersdorf et al., NeurIPS 2024",
    stronger="less",
    largest=1,
    sweep=(0.8, 0.65, 0.5, GATE, 0.3),
    cost=lambda target, steps: SEEDS * (2 + ROUNDS + LAYERS + MOST_NEURONS + LAYERS * (ROUNDS - 1)),
    reads="weights",
    compares=True,
    released={SD1: VALUES, SD2: VALUES},
    needs=(CROSS_ATTENTION,),
)
def memorization_neurons_off(
    pipe: "DenoisingPipeline", options: MitigationOptions, images: ImageBatch, strength: float
) -> Mitigated:
    """Finds the value neurons that a memorized prompt needs, and switches them off.

    Neurons that deviate from ordinary captions are chosen until the first noise prediction no longer resembles the
    plain one; those that are not needed for that are put back. A prompt whose noise differences do not resemble one
    another is let be. They are off in both branches.
    """
    assert options.ordinary_text is not None
    layers, text = value_layers(pipe.unet), images.embeds()
    factors = {name: torch.ones(len(images), layer.out_features) for name, layer in layers.items()}
    evals, triggered = [0] * len(images), [False] * len(images)
    for places in prompts_of(text):
        first = places[0]
        found = find_neurons(pipe, options.ordinary_text, text[first : first + 1], images.latents.shape[1:], strength)
        evals[first] = found.evals  # the other images of the prompt share what was found
        for place in places:
            triggered[place] = found.is_memorized
            for factor, neurons in zip(factors.values(), found.neurons, strict=True):
                factor[place, neurons] = 0
    with values_scaled(pipe.unet, {name: factor.to(text.device) for name, factor in factors.items()}):
        generated = always_acting(pipe, options, images, evals=evals)
    return replace(generated, triggered=triggered)


def prompts_of(text: torch.Tensor) -> list[list[int]]:
    """Places of the images that share their prompt's features (images, tokens, dim)."""
    found: list[list[int]] = []
    for k in range(len(text)):
        same = next((places for places in found if torch.equal(text[places[0]], text[k])), None)
        if same is None:
            found.append([k])
        else:
            same.append(k)
    return found


def find_neurons(
    pipe: "DenoisingPipeline",
    ordinary: torch.Tensor,
    text: torch.Tensor,
    shape: Sequence[int],
    target: float,
) -> PromptNeurons:
    """Choose neurons for one prompt, and put back what is not needed.

    Args:
        ordinary: features of ordinary captions, (captions, tokens, dim).
        text: features of the prompt, (1, tokens, dim).
        shape: of a latent, (channels, height, width).
        target: structural similarity at or below which the first noise prediction is another.

    Raises:
        InputError: if the latents are smaller than the window of the structural similarity.
    """
    before = pipe.num_unet_evals
    effect = NeuronEffect(pipe, text, shape)
    if not effect.is_memorized:
        return PromptNeurons([[] for _ in effect.layers], pipe.num_unet_evals - before, False)
    neurons: Neurons = [[] for _ in effect.layers]
    threshold = target
    for neurons in candidate_neurons(pipe, ordinary, text):
        similarity = effect.similarity(neurons)
        if not similarity > target:
            break
    else:
        threshold = similarity  # none was enough: what the last achieved is kept up instead
    return PromptNeurons(refine(effect, neurons, threshold), pipe.num_unet_evals - before, True)


@torch.no_grad()
def candidate_neurons(pipe: "DenoisingPipeline", ordinary: torch.Tensor, text: torch.Tensor) -> Iterator[Neurons]:
    """Sets of neurons, ever larger: of each layer those that deviate by more than theta, in order, and the k largest.

    The first has theta 5 and k 0, each next one a quarter less and one more, the sixteenth and last 1.25 and 15. A
    neuron that is both is there twice.
    """
    scores = [z[0] for z in deviations(pipe, ordinary, text).values()]
    sizes = [activations(layer, pipe.token_rows(text))[0] for layer in value_layers(pipe.unet).values()]
    for k in range(ROUNDS):
        theta = THETA - THETA_STEP * k
        yield [
            (z > theta).nonzero()[:, 0].tolist() + size.topk(min(k, len(size))).indices.tolist()
            for z, size in zip(scores, sizes, strict=True)
        ]


def refine(effect: "NeuronEffect", neurons: Neurons, threshold: float) -> Neurons:
    """Put back whole layers, the last first, and then single neurons, while the similarity stays below the threshold.

    Of a neuron that is in a list twice, the first is taken out at its first turn, which changes nothing.
    """
    kept = [list(some) for some in neurons]
    for place in reversed(range(len(kept))):
        without = [[] if k == place else some for k, some in enumerate(kept)]
        if kept[place] and effect.similarity(without) < threshold:
            kept = without
    for place in reversed(range(len(kept))):
        for neuron in list(kept[place]):
            without = [list(some) for some in kept]
            without[place].remove(neuron)
            if effect.similarity(without) < threshold:
                kept = without
    return kept


class NeuronEffect:
    """The first noise predictions of one prompt at ten fixed noises, plain and without some neurons.

    What is compared is the conditional output at the second of 50 timesteps, on starting noise that no step has moved,
    less that noise, from 0 to 1 for each noise and channel.

    Attributes:
        layers: names of the layers, in the order of lists of neurons.
        noises: that are looked at: those whose plain difference resembles another's by more than the gate.
        plain: differences of the model as it is at `noises`.
        scales: of the structural similarity.
    """

    def __init__(self, pipe: "DenoisingPipeline", text: torch.Tensor, shape: Sequence[int]):
        """
        Args:
            text: features of the prompt, (1, tokens, dim).
            shape: of a latent, (channels, height, width).

        Raises:
            InputError: if the latents are smaller than the window of the structural similarity.
        """
        height, width = shape[1:]
        self.scales = number_of_scales(height, width)
        if not self.scales:
            raise InputError(
                f"nemo compares windows of 11 positions, and latents of {height} x {width} are smaller than one"
            )
        self.pipe, self.text, self.layers = pipe, text, list(value_layers(pipe.unet))
        pipe.scheduler.set_timesteps(STEPS)
        self.timestep = int(pipe.scheduler.timesteps[1])
        noises = torch.randn((SEEDS, *shape), generator=torch.Generator().manual_seed(SEED))
        self.noises = noises.to(text.device, pipe.denoiser.dtype)
        self.plain = self.differences([[] for _ in self.layers])
        resembling = largest_similarities(self.plain, self.scales) > GATE
        self.noises, self.plain = self.noises[resembling], self.plain[resembling]

    @property
    def is_memorized(self) -> bool:
        return len(self.noises) > 0

    @torch.no_grad()
    def differences(self, neurons: Neurons) -> torch.Tensor:
        """Scaled differences without some neurons, float32 (noises, channels, height, width)."""
        factors = {}
        for name, off in zip(self.layers, neurons, strict=True):
            if off:
                width = value_layers(self.pipe.unet)[name].out_features
                factors[name] = torch.ones(1, width, device=self.noises.device)
                factors[name][0, off] = 0
        with values_scaled(self.pipe.unet, factors):
            text = self.text.expand(len(self.noises), -1, -1)
            output = self.pipe.predict_noise(self.noises, self.timestep, (text,)).outputs[0]
        moved = output.float() - self.noises.float()
        low, high = moved.amin((2, 3), keepdim=True), moved.amax((2, 3), keepdim=True)
        return (moved - low) / (high - low)

    def similarity(self, neurons: Neurons) -> float:
        """Structural similarity to the plain differences without some neurons: the largest of all noises."""
        return float(multiscale_similarity(self.plain, self.differences(neurons), self.scales).max())


def largest_similarities(maps: torch.Tensor, scales: int) -> torch.Tensor:
    """Of each map the structural similarity to the one that it resembles most, (maps,)."""
    pairs = torch.combinations(torch.arange(len(maps)))
    similarities = multiscale_similarity(maps[pairs[:, 0]], maps[pairs[:, 1]], scales)
    return torch.stack([similarities[(pairs == k).any(1).to(maps.device)].max() for k in range(len(maps))])
