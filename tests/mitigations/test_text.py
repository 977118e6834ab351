"""Methods that change what the text embeddings hold or which of them are seen, against the released codes' rules."""

import pytest
import torch

from helpers.released_loops import guided_loop, image_batch
from memorization.errors import InputError
from memorization.mitigations.base import run_mitigation
from memorization.mitigations.batch import MitigationOptions
from memorization.mitigations.padding_fix import encode_padded
from memorization.seeds import derived_seed

STEPS, CLOSE = 3, {"rtol": 1e-4, "atol": 1e-4}
PROMPTS, SEEDS = ["the golden owl mug", "a large red heart on the left"], [1, 2]


@pytest.fixture(scope="module")
def images(pipe):
    return image_batch(pipe, PROMPTS, SEEDS)


def mitigated(pipe, images, name, strength):
    return run_mitigation(pipe, MitigationOptions(num_inference_steps=STEPS), images, name, strength).latents


def ordinary(index, t, uncond, text, state):
    return uncond + 7.5 * (text - uncond)


@torch.no_grad()
def encoded(pipe, ids):
    """Text features of ids as they are, (1, tokens, dim)."""
    return pipe.text_encoder(torch.tensor([ids]))[0]


def test_padding_fix_as_released(pipe, images):
    """Id 0 as padding in both branches; the prompt's end token becomes zeros, the empty prompt's stays."""
    texts = []
    for prompt in PROMPTS:
        ids = pipe.tokenizer(prompt).input_ids
        text = encoded(pipe, ids + [0] * (77 - len(ids)))
        text[:, len(ids) - 1] = 0
        texts.append(text)
    begin, end = pipe.tokenizer.bos_token_id, pipe.tokenizer.eos_token_id
    negatives = encoded(pipe, [begin, end] + [0] * 75).expand(2, -1, -1)
    expected = guided_loop(pipe, images, STEPS, ordinary, torch.cat(texts), negatives)
    torch.testing.assert_close(mitigated(pipe, images, "padding_fix", 1), expected, **CLOSE)


def test_padding_that_the_tokenizer_does_not_have_is_refused(pipe):
    with pytest.raises(InputError, match="no token 'of no vocabulary'"):
        encode_padded(pipe, PROMPTS[0], "of no vocabulary", torch.device("cpu"))


@pytest.mark.parametrize(("strength", "masked"), [(0.7, (49, 47)), (0.4, (28, 27)), (1, (71, 68))])
def test_padding_mask_as_released(pipe, images, strength, masked):
    """Zeros from behind the end token on; of 71 and 68 padding tokens so many, rounded down."""
    text = images.embeds()
    for row, (prompt, count) in enumerate(zip(PROMPTS, masked, strict=True)):
        behind = len(pipe.tokenizer(prompt).input_ids)
        text[row, behind : behind + count] = 0
    expected = guided_loop(pipe, images, STEPS, ordinary, text)
    torch.testing.assert_close(mitigated(pipe, images, "padding_mask", strength), expected, **CLOSE)


def test_attention_rescale_as_released(pipe, images):
    """Both branches end at the prompt's end token; a longer key of the begin token scales its logit in one."""
    one = images.part(slice(0, 1))
    length = len(pipe.tokenizer(PROMPTS[0]).input_ids)
    text, negatives = one.embeds()[:, :length], one.negatives()[:, :length]

    def lengthen(module, inputs, output):
        if torch.equal(inputs[0], text):
            output = output.clone()
            output[:, 0] *= 1.25
        return output

    modules = [m for name, m in pipe.unet.named_modules() if name.endswith("attn2.to_k")]
    hooks = [m.register_forward_hook(lengthen) for m in modules]
    expected = guided_loop(pipe, one, STEPS, ordinary, text, negatives)
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(mitigated(pipe, one, "attention_rescale", 0.25), expected, **CLOSE)


def test_gni_adds_independent_noise_to_both_halves(pipe, images):
    """One draw for the embeddings of both, from a generator that never made the starting noise."""
    noise = [torch.randn((2, 77, 16), generator=torch.Generator().manual_seed(derived_seed(s, "gni"))) for s in SEEDS]
    uncond, text = torch.stack(noise, 1)
    expected = guided_loop(
        pipe, images, STEPS, ordinary, images.embeds() + 0.1 * text, images.negatives() + 0.1 * uncond
    )
    torch.testing.assert_close(mitigated(pipe, images, "gni", 0.1), expected, **CLOSE)
    start = images.latents.flatten(1)[:, : 77 * 16]
    for drawn in (uncond.flatten(1)[:, : start.shape[1]], text.flatten(1)[:, : start.shape[1]]):
        assert torch.corrcoef(torch.cat([drawn, start])).fill_diagonal_(0).abs().max() < 0.15
