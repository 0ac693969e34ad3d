"""The losses of `retrieval train`: unit rows and a scale in, one number out.

Nothing here knows of models or data sets.
"""

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
    """InfoNCE in both directions (Radford et al., CLIP, 2021) with soft targets.

    photos, texts (B, dim) unit rows; target (B, B): row i is the share of photo i in each text,
    the identity for plain InfoNCE. Returns the mean cross-entropy of rows and columns.
    """
    logits = photos @ texts.T * scale
    loss = functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target.T)
    return loss / 2


def sigmoid(photos: Tensor, texts: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary cross-entropy of each pair (Zhai et al., SigLIP, 2023), the mean over photos."""
    logits = photos @ texts.T * scale + bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -functional.logsigmoid(sign * logits).sum(1).mean()


def soft_target(sentences: Tensor, share: float, temperature: float) -> Tensor:
    """The identity, with `share` of each row distributed by the similarity of the captions.

    sentences (B, C): unit rows of the text tower before training, which knows more than this data
    set. Returns (B, B).
    """
    near = (sentences @ sentences.T / temperature).softmax(1)
    near = (near + near.T) / 2
    eye = torch.eye(len(sentences), device=sentences.device)
    return (1 - share) * eye + share * near


def class_agreement(
    photos: Tensor, classes: Tensor, probabilities: Tensor, scale: Tensor
) -> Tensor:
    """Cross-entropy between a photo's similarities to class texts and a classifier's probabilities.

    photos (B, dim), classes (classes, dim): unit rows; probabilities (B, classes).
    """
    return functional.cross_entropy(photos @ classes.T * scale, probabilities)


def similarity_preservation(texts: Tensor, before: Tensor, temperature: float = 0.1) -> Tensor:
    """How far the similarities between texts have moved: KL divergence of their softmaxes.

    texts (B, dim), before (B, C): unit rows now and by the text tower before training. Preserves
    what the tower knows of words that the captions lack (relational distillation, Park et al.,
    2019).
    """
    no_self = torch.eye(len(texts), device=texts.device) * -1e4
    now = ((texts @ texts.T) / temperature + no_self).log_softmax(1)
    target = ((before @ before.T) / temperature + no_self).softmax(1)
    return functional.kl_div(now, target, reduction="batchmean")
