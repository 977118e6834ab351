"""Search for a prompt embedding that brings a training image back: what a mitigation hides, it may not have removed."""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from local_sd_pipeline import DenoisingPipeline

STEPS, LR, BATCH = 50, 0.1, 8
# Of the loss in float16, whose smallest number is above 91 to 100 % of the gradient at Stable Diffusion's size.
LOSS_SCALE = 4096.0


def search_embedding(
    pipe: "DenoisingPipeline",
    latents: torch.Tensor,
    start: torch.Tensor,
    seed: int,
    num_steps: int = STEPS,
    lr: float = LR,
    batch_size: int = BATCH,
) -> tuple[torch.Tensor, list[float]]:
    """An embedding that the model denoises the given images with.

    As in the audit of Finding DoRI (ICML 2026): Adam on the embedding alone against the denoising loss of the image,
    with fresh noise and a fresh timestep each step.

    Args:
        latents: of the training images of one prompt, (images, channels, height, width).
        start: embedding to start from, (1, tokens, dim).
        seed: of noise, timesteps and which image is taken.

    Returns:
        (embedding (1, tokens, dim), losses, a list of num_steps numbers). Costs num_steps times batch_size
        evaluations and gradients. In float16 the loss is scaled, so that its gradient does not vanish.

    Raises:
        ValueError: if a gradient is NaN or infinite: use another dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    embeds = start.detach().float().clone().requires_grad_()
    optimizer = torch.optim.Adam([embeds], lr=lr)
    scale = LOSS_SCALE if start.dtype == torch.float16 else 1.0
    losses: list[float] = []
    for _ in range(num_steps):
        t = int(torch.randint(pipe.scheduler.config.num_train_timesteps, (), generator=generator))
        x0 = latents[torch.randint(len(latents), (batch_size,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        alpha = pipe.scheduler.alphas_cumprod[t]
        noisy = alpha.sqrt() * x0 + (1 - alpha).sqrt() * noise
        with torch.enable_grad():
            text = embeds.to(start.dtype).expand(batch_size, -1, -1)
            loss = F.mse_loss(pipe.predict_noise(noisy, t, (text,)).noise(0).float(), noise.float())
        optimizer.zero_grad(set_to_none=True)
        (scale * loss).backward()
        assert embeds.grad is not None
        embeds.grad /= scale
        if not embeds.grad.isfinite().all():
            raise ValueError(f"the gradient at timestep {t} is NaN or infinite in {start.dtype}; search in float32")
        optimizer.step()
        pipe.num_unet_gradients += batch_size
        losses.append(loss.item())
    return embeds.detach().to(start.dtype), losses
