"""A search for embeddings keeps its gradient in half precision."""

import pytest
import torch

from helpers.pipelines import make_pipeline
from memorization.embedding_search import search_embedding


@pytest.fixture(scope="module")
def faint():
    """A pipeline whose loss barely depends on the text: gradients below float16's smallest number, as at SD's size."""
    pipe = make_pipeline()
    for name, parameter in pipe.unet.named_parameters():
        if "attn2.to_out.0.weight" in name:
            parameter.mul_(1e-3)
    return pipe


def search(pipe, dtype, latents):
    torch.nn.Module.to(pipe.unet, dtype)
    try:
        text = pipe.encode(["a red owl"])[0].to(dtype)
        found, losses = search_embedding(pipe, latents.to(dtype), text, seed=1, num_steps=1, lr=0.1, batch_size=4)
        return (found.float() - text.float()).sign(), losses
    finally:
        torch.nn.Module.to(pipe.unet, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_first_step_of_a_search_in_half_precision_is_that_in_float32(faint, dtype):
    """Adam's first step is the gradient's sign: 0 where it vanished, and chance where it is all rounding."""
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    expected, _ = search(faint, torch.float32, latents)
    found, losses = search(faint, dtype, latents)
    moved = found != 0
    assert moved.float().mean() > 0.9
    assert (found == expected)[moved].float().mean() > 0.9 and losses[0] > 0


def test_a_gradient_that_is_not_finite_is_said(faint):
    latents = torch.full((1, 4, 16, 16), float("inf"))
    with pytest.raises(ValueError, match="gradient at timestep .* is NaN or infinite in torch.float32"):
        search(faint, torch.float32, latents)
