"""Gradients are taken in chunks that fit, with the same results; and their attention is a matter of the call."""

import threading
from types import SimpleNamespace

import pytest
import torch

from helpers.pipelines import make_pipeline
from memorization import detect, gradients, mitigate
from memorization.detectors.base import DETECTORS
from memorization.detectors.sharpness import sharpness
from memorization.errors import InputError
from memorization.gradients import (
    available_memory,
    chunk_size,
    container_memory,
    free_bytes,
    kept_bytes,
    open_attention,
)
from memorization.observation import Recorded, make_inputs, observe_batches
from memorization.trace import Trace
from optim_utils import descend

GRADIENTS = [name for name, d in DETECTORS.items() if d.cost[1]]
PROMPTS, SEEDS = ["the golden owl mug", "a large red heart"], [[1, 2], [3, 4]]


@pytest.fixture
def small():
    return make_pipeline(latent=8)


def counted(pipe):
    """Sizes of the batches that the UNet sees from now on."""
    sizes = []
    pipe.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return sizes


def measure(pipe, name):
    inputs = make_inputs(pipe, PROMPTS, SEEDS)
    return observe_batches(pipe, inputs, 4, Recorded(), detectors=[DETECTORS[name]], num_inference_steps=3)


def test_all_methods_that_take_gradients_are_known():
    assert set(GRADIENTS) == {"sharpness", "curvature_diff", "hessian_map", "condition_jacobian", "token_significance"}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_detector_s_chunks_change_no_score_no_image_and_no_cost(small, name):
    found, costs, images = [], [], []
    for size in (None, 1, 3):
        small.grad_batch_size = size
        before, sizes = (small.num_unet_evals, small.num_unet_gradients), counted(small)
        observed = measure(small, name)
        costs.append((small.num_unet_evals - before[0], small.num_unet_gradients - before[1]))
        found.append(observed.scores)
        images.append(observed.latents)
        assert max(sizes[3:]) <= 2 * (size or 4) and max(sizes[:3]) == 8  # the generation keeps its batch
    assert costs[0] == costs[1] == costs[2]
    for other, image in zip(found[1:], images[1:], strict=True):
        assert torch.equal(image, images[0])
        for key, values in other.items():
            torch.testing.assert_close(values, found[0][key], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("method", "strength"), [("pe", 0.05), ("sail", 2), ("init_noise_adam", 2)])
def test_a_descent_in_chunks_ends_where_it_would(small, method, strength):
    ends = [
        mitigate(small, PROMPTS, method, strength, num_images_per_prompt=2, num_inference_steps=3, grad_batch_size=size)
        for size in (None, 1, 3)
    ]
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            assert a.unet_evals_per_image == b.unet_evals_per_image
            assert a.magnitude_after == pytest.approx(b.magnitude_after, rel=1e-3)
            assert abs(a.images.astype(int) - b.images).max() <= 1


def test_the_chunk_is_what_half_of_the_free_memory_holds(small, monkeypatch):
    latents = torch.zeros(16, 4, 8, 8)
    need = 1.5 * 2 * kept_bytes(small, latents)
    for times, size in ((0.1, 1), (2.1, 1), (6.1, 3), (100, 50)):
        monkeypatch.setattr(gradients, "free_bytes", lambda device, times=times: int(times * need))
        assert chunk_size(small, latents, 2) == size
    monkeypatch.setattr(gradients, "free_bytes", lambda device: None)
    assert chunk_size(small, latents, 2) == 16
    small.grad_batch_size = 5
    assert chunk_size(small, latents, 2) == 5


def test_little_memory_is_seen_to_make_small_chunks_of_a_run(small, monkeypatch):
    plain = detect(small, PROMPTS, "curvature_diff", num_images_per_prompt=2, num_inference_steps=3)
    monkeypatch.setattr(gradients, "free_bytes", lambda device: 1)
    sizes = counted(small)
    tight = detect(small, PROMPTS, "curvature_diff", num_images_per_prompt=2, num_inference_steps=3)
    assert sizes == [8, 8, 8, 2, 2, 2, 2]
    for a, b in zip(plain, tight, strict=True):
        assert a.scores["curvature_diff"] == pytest.approx(b.scores["curvature_diff"], rel=1e-4)


def test_what_a_pass_keeps_is_measured_once_and_grows_with_the_latent(small):
    sizes, before = counted(small), small.num_unet_evals
    kept = [kept_bytes(small, torch.zeros(n, 4, size, size)) for n, size in ((1, 8), (7, 8), (1, 16))]
    assert kept[0] == kept[1] and 3.5 < kept[2] / kept[0] < 5
    assert sizes == [1, 1] and small.num_unet_evals == before


def test_it_is_no_less_than_what_the_pass_holds():
    """By hand: the tensors that are alive behind the output, found by walking through its graph."""
    pipe = make_pipeline(latent=8)
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    text = torch.zeros(1, 77, 16, requires_grad=True)
    output = pipe.unet(x, torch.tensor(0), encoder_hidden_states=text, return_dict=False)[0]
    weights = {p.data_ptr() for p in pipe.unet.parameters()}
    seen, todo, alive = set(), [output.grad_fn], {}
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        todo += [other for other, _ in node.next_functions]
        for name in (n for n in dir(node) if n.startswith("_saved_")):
            value = getattr(node, name)
            for t in value if isinstance(value, tuple | list) else (value,):
                if torch.is_tensor(t) and t.untyped_storage().data_ptr() not in weights:
                    alive[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
    assert kept_bytes(pipe, x.detach()) == pytest.approx(sum(alive.values()), rel=0.02)


def test_free_memory_is_what_linux_and_the_container_leave(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 900 kB\nMemAvailable:     512 kB\n")
    assert available_memory(tmp_path / "meminfo") == 512 * 1024
    assert available_memory(tmp_path / "none") is None and container_memory(tmp_path) is None
    for name, text in (("max", "1000"), ("current", "900"), ("stat", "anon 700\ninactive_file 150\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert container_memory(tmp_path) == 250
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) is None
    assert free_bytes(torch.device("meta")) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_descent_sees_gradients_that_float16_has_no_numbers_for(small, dtype):
    """1e-4 of 1e-4: the smallest number of float16 is 6e-8. Adam's first step is lr wherever there is a gradient."""
    start = torch.ones(2, 4, 8, 8, dtype=dtype)

    def loss(x, rows):
        return 1e-4 * (1e-4 * x).float().sum((1, 2, 3))

    found, losses = descend(small, start, loss, torch.optim.Adam, 0.25, 1)
    torch.testing.assert_close(found, start - 0.25 / 2, rtol=0.01, atol=0)  # as 1e-8 is Adam's epsilon too


@pytest.mark.parametrize("size", [0, -1])
def test_a_chunk_of_nothing_is_refused(small, size):
    with pytest.raises(InputError, match="grad_batch_size"):
        detect(small, PROMPTS, grad_batch_size=size)


@pytest.fixture
def trace(small):
    inputs = make_inputs(small, PROMPTS, SEEDS)
    trace = Trace(small, inputs.embeds, inputs.tokens, inputs.seeds, 3)
    trace.watch(next(iter(small.denoise(inputs.latents, inputs.embeds, 3))))
    return trace


def test_pictures_decoded_beside_a_tangent_are_those_decoded_alone(small, trace):
    """Decoding happens in another thread in the midst of the UNet's pass; no switch of the process is touched."""
    final = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    alone, plain = small.decode(final), sharpness(trace)["sharpness"]
    latents_alone = small.vae.decode(final, return_dict=False)[0]
    switches, beside = [], []

    def decode():
        switches.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()))
        with torch.no_grad():
            beside.append((small.decode(final), small.vae.decode(final, return_dict=False)[0]))

    def in_another_thread(*args):
        thread = threading.Thread(target=decode)
        thread.start()
        thread.join()

    hook = small.unet.mid_block.register_forward_pre_hook(in_another_thread)
    found = sharpness(trace)["sharpness"]
    hook.remove()
    assert switches == [(True, True)] and torch.equal(found, plain)
    assert (beside[0][0] == alone).all() and torch.equal(beside[0][1], latents_alone)


def test_open_attention_gives_what_the_kernels_give_and_leaves_other_processors_alone(small):
    class Own:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return torch.zeros_like(hidden_states)

    inputs = make_inputs(small, PROMPTS, SEEDS)
    plain = small.predict_outputs(inputs.latents, 500, inputs.embeds)
    with open_attention(small.unet):
        opened = small.predict_outputs(inputs.latents, 500, inputs.embeds)
    torch.testing.assert_close(opened, plain, rtol=1e-5, atol=1e-6)
    names = list(small.unet.attn_processors)
    small.unet.set_attn_processor(dict(small.unet.attn_processors) | {names[0]: Own()})
    before = dict(small.unet.attn_processors)
    with open_attention(small.unet):
        assert isinstance(small.unet.attn_processors[names[0]], Own)
        assert not any(type(p).__name__ == "AttnProcessor2_0" for p in small.unet.attn_processors.values())
    assert small.unet.attn_processors == before


def test_open_attention_refuses_a_layer_that_it_would_compute_wrongly():
    layer = SimpleNamespace(group_norm=object(), spatial_norm=None, norm_cross=False)
    with pytest.raises(ValueError, match="not that of a Stable Diffusion"):
        gradients.OpenAttention()(layer, torch.zeros(1, 4, 8))
