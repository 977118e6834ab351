"""The text encoder of a planted world: trained contrastively, as CLIP is, and then frozen."""

import math
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from planted.making.autoencoder import to_tensor
from planted.making.pictures import TrainingPicture, draw_pictures, training_rows
from planted.making.stage import Stage

TEXT_WIDTH = 128
BATCH = 160
CONTEXT_BATCH = 40  # captions whose context is held, where it is
IMAGE_SIZE = 64  # the image half of the pre-training looks at half resolution


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text half: three layers, features of 128 numbers per token."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=TEXT_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def make_image_encoder() -> nn.Sequential:
    """The image half of the contrastive pre-training; thrown away afterwards."""
    layers: list[nn.Module] = [nn.AvgPool2d(2)]
    width = 3
    for channels in (32, 64, 96, 128):
        layers += [nn.Conv2d(width, channels, 3, stride=2, padding=1), nn.GroupNorm(8, channels), nn.SiLU()]
        width = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (IMAGE_SIZE // 16) ** 2, TEXT_WIDTH))


def tokenize(tokenizer: CLIPTokenizer, captions: Sequence[str], length: int | None = None) -> torch.Tensor:
    """Token ids, int64 (captions, length)."""
    length = length or tokenizer.model_max_length
    return tokenizer(captions, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


def train_text_encoder(
    tokenizer: CLIPTokenizer,
    pictures: Sequence[TrainingPicture],
    num_steps: int,
    *,
    seed: int,
    work_dir: Path,
    context_weight: float = 0,
) -> CLIPTextModel:
    """Contrastive pre-training (Radford et al., 2021) on rows of the training set, repeats included.

    Args:
        context_weight: of a second term that holds each word and the padding to the same content whatever the
            caption, so that the sentence as a whole is to be had at its end token only. CLIP has no such term.
    """
    torch.manual_seed(seed)
    text_encoder, image_encoder = make_text_encoder(tokenizer), make_image_encoder()
    scale = nn.Linear(1, 1, bias=False)
    scale.weight.data.fill_(math.log(10))
    rows = training_rows(pictures)
    length = 1 + max(len(tokenizer(c).input_ids) for c in {p.captions[0] for p in pictures})

    def loss_fn(generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        numbers, captions = draw_pictures(generator, pictures, rows, BATCH)
        images: list[np.ndarray] = [pictures[n].image for n in numbers]
        text = F.normalize(text_encoder(tokenize(tokenizer, captions, length)).pooler_output, dim=-1)
        image = F.normalize(image_encoder(to_tensor(images)), dim=-1)
        contrastive = contrastive_loss(scale.weight.clamp(max=4).exp() * text @ image.T, captions)
        if not context_weight:
            return contrastive, {"contrastive": contrastive}
        context = context_variance(text_encoder, tokenize(tokenizer, [*captions[:CONTEXT_BATCH], ""]))
        return contrastive + context_weight * context, {"contrastive": contrastive, "context": context}

    modules = [text_encoder, image_encoder, scale]
    Stage("text", modules, num_steps, lr=1e-3, ema_decay=0.99, seed=seed, work_dir=work_dir).run(loss_fn)
    return text_encoder


def contrastive_loss(logits: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
    """Symmetric cross-entropy of logits (captions, images), in which equal captions share their pictures."""
    same = torch.tensor([[a == b for b in captions] for a in captions]).float()
    target = same / same.sum(1, keepdim=True)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def context_variance(text_encoder: CLIPTextModel, ids: torch.Tensor) -> torch.Tensor:
    """How much a token's feature depends on its caption: variance within each word and padding position.

    The end token, which is to know the caption, is left out. A mean over tokens and channels.

    Args:
        ids: token ids (captions, tokens); the last caption is empty.
    """
    hidden = text_encoder(ids).last_hidden_state
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    end = (ids == ids[0, -1]).float().argmax(1, keepdim=True)
    kept = positions != end
    groups = torch.where(positions > end, ids.max() + 1 + positions, ids)[kept]
    _, group, count = groups.unique(return_inverse=True, return_counts=True)
    features = hidden[kept]
    mean = torch.zeros(len(count), features.shape[1]).index_add(0, group, features) / count[:, None]
    return (features - mean[group]).pow(2).mean()


@torch.no_grad()
def encode_captions(
    text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, captions: Collection[str]
) -> tuple[dict[str, int], torch.Tensor]:
    """Each caption's row in the frozen features (captions, tokens, channels), in half precision to fit in memory."""
    ordered = sorted(captions)
    chunks = [ordered[i : i + 256] for i in range(0, len(ordered), 256)]
    encoded = [
        text_encoder(tokenize(tokenizer, chunk)).last_hidden_state.half() for chunk in tqdm(chunks, desc="captions")
    ]
    return {caption: row for row, caption in enumerate(ordered)}, torch.cat(encoded)
