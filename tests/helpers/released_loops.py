"""The denoising loop of released codes, written out: what a method's images are compared with."""

import torch

from memorization.mitigations.batch import ImageBatch


def image_batch(pipe, prompts, seeds):
    """One image of each prompt."""
    text, negative = pipe.encode(prompts)
    ends = [pipe.end_token(p) for p in prompts]
    return ImageBatch(pipe.initial_latents(seeds), seeds, list(text.split(1)), negative[:1], None, prompts, ends)


@torch.no_grad()
def unet_output(pipe, latents, t, text):
    """The UNet's output for one branch in a call of its own."""
    return pipe.unet(latents, torch.tensor(t), encoder_hidden_states=text, return_dict=False)[0]


@torch.no_grad()
def guided_loop(pipe, images, num_inference_steps, guide, text=None, negatives=None):
    """Final latents where guide(index, t, uncond, text) is what the scheduler gets, an image at a time.

    Args:
        text, negatives: other embeddings than the batch's, (images, tokens, dim).
    """
    text = images.embeds() if text is None else text
    negatives = images.negatives() if negatives is None else negatives
    pipe.scheduler.set_timesteps(num_inference_steps)
    finals = []
    for k in range(len(images)):
        latents, state = images.latents[k : k + 1], {}
        for index, t in enumerate(pipe.scheduler.timesteps.tolist()):
            outputs = [unet_output(pipe, latents, t, e[k : k + 1]) for e in (negatives, text)]
            noise = guide(index, t, *outputs, state)
            latents = pipe.scheduler.step(noise, t, latents, return_dict=False)[0]
        finals.append(latents)
    return torch.cat(finals)
