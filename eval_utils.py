"""Similarity of generated images to training images and to prompts. Preprocessing is part of a metric."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data_utils import read_image, read_mask


def similarity_to_references(images, record):
    """1 - root mean squared pixel difference to the nearest training image, per image; 1 is a copy.

    A quick look without a copy descriptor: over the true mask where the data set has one, else over the
    whole image, which is resized to the generated one's size.

    Args:
        images: uint8 array (images, height, width, 3).
        record: a `PromptRecord` with reference images.

    Returns:
        List of floats in [0, 1].
    """
    size = images.shape[2], images.shape[1]
    mask = np.ones(images.shape[1:3], bool)
    if record.mask_path is not None:
        mask = np.asarray(Image.fromarray(read_mask(record.mask_path)).resize(size, Image.NEAREST))
    best = np.zeros(len(images))
    for path in record.reference_images:
        reference = np.asarray(Image.fromarray(read_image(path)).resize(size, Image.BICUBIC))
        error = (images.astype(np.float32) - reference.astype(np.float32))[:, mask] / 255
        best = np.maximum(best, 1 - np.sqrt((error**2).mean((1, 2))))
    return best.tolist()


class ClipSimilarity:
    """Cosine similarity of images to the original prompt under an open_clip model."""

    def __init__(self, model, pretrained, device):
        """
        Args:
            model: open_clip model name, e.g. ViT-g-14.
            pretrained: tag of its weights, or a local checkpoint.

        Raises:
            ValueError: one line, if the model or its weights cannot be had.
        """
        import open_clip

        try:
            # The weights come first: without them there is no point in building a model of gigabytes.
            if not Path(pretrained).exists():
                open_clip.download_pretrained(open_clip.get_pretrained_cfg(model, pretrained))
            self.model, _, self.preprocess = open_clip.create_model_and_transforms(
                model, pretrained=pretrained, device=device
            )
        except Exception as error:  # the hub client and open_clip raise many kinds; all mean no weights
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = reason if len(reason) < 200 else f"{reason[:200]}..."  # open_clip lists all of its models
            raise ValueError(f"cannot load {model} with weights {pretrained}: {reason}") from error
        self.tokenizer, self.device = open_clip.get_tokenizer(model), device
        self.model.eval()

    @torch.no_grad()
    def __call__(self, images, prompt):
        """List of similarities in [-1, 1] of uint8 images (images, height, width, 3) to the prompt."""
        batch = torch.stack([self.preprocess(Image.fromarray(i)) for i in images]).to(self.device)
        image = self.model.encode_image(batch, normalize=True)
        text = self.model.encode_text(self.tokenizer([prompt]).to(self.device), normalize=True)
        return (image @ text.T)[:, 0].tolist()
