"""The losses of `retrieval train`: unit rows and a scale in, one number out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexes.lazy_imports import load_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    torch = load_torch()
    functional = torch.nn.functional


def contrastive(photos: Tensor, texts: Tensor, target: Tensor, scale: Tensor) -> Tensor:
    """InfoNCE both ways (Radford et al., CLIP, 2021) towards soft targets.

    photos, texts (B, dim) unit rows; target (B, B): row i is the share of photo i in each text,
    the identity for plain InfoNCE. The mean cross-entropy of the rows and of the columns.
    """
    logits = photos @ texts.T * scale
    loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target.T)
    return loss / 2


def sigmoid(photos: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Each pair judged for itself (Zhai et al., SigLIP, 2023): the mean over photos."""
    logits = photos @ texts.T * scale + bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -functional.logsigmoid(sign * logits).sum(1).mean()


def soft_target(meaning: Tensor, share: float, temperature: float) -> Tensor:
    """The identity, but `share` of each row goes by how near the captions' meanings are.

    meaning (B, C) unit rows of a text tower that knows more than this data set; symmetric in mean.
    """
    near = (meaning @ meaning.T / temperature).softmax(1)
    near = (near + near.T) / 2
    eye = torch.eye(len(meaning), device=meaning.device)
    return (1 - share) * eye + share * near


def agreement(photos: Tensor, concepts: Tensor, seen: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of photos' nearness to the classes' texts with what a classifier saw.

    photos (B, dim), concepts (classes, dim) unit rows; seen (B, classes) probabilities.
    """
    return functional.cross_entropy(photos @ concepts.T * scale, seen)


def kept_nearness(texts: Tensor, meaning: Tensor, temperature: float = 0.1) -> Tensor:
    """How far texts' nearness to each other is from what it was: KL of softmaxed similarities.

    texts, meaning (B, dim), (B, C): unit rows now and by the untrained tower. Keeps what the tower
    knows of words that the captions lack (relational distillation, Park et al., 2019).
    """
    away = torch.eye(len(texts), device=texts.device) * -1e4
    now = ((texts @ texts.T) / temperature + away).log_softmax(1)
    before = ((meaning @ meaning.T) / temperature + away).softmax(1)
    return functional.kl_div(now, before, reduction="batchmean")
