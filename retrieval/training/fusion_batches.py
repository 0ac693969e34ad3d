"""The batches that the two networks of a fusion are trained on.

Photos are stored with captions that are right, swapped or missing, and searched by another of their
captions; composed queries are an example photo and a text. The loop is in `fusion`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from indexes.lazy_imports import load_torch
from retrieval.evaluation.fusion_cases import MISSING, SWAPPED
from retrieval.evaluation.fusion_data import CaptionedEmbeddings, FusionData
from retrieval.fusion.attention import normalise
from retrieval.training.noise import EmbeddingNoise

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = load_torch()


@dataclass(frozen=True)
class FusionBatch:
    """images, texts: what is fused, (B, dim) unit rows; has_text: (B,) of 1 and 0; others: what
    the fused rows are compared with, (m, dim); target: for each query the position of what it
    should find, (B,)."""

    images: Tensor
    texts: Tensor
    has_text: Tensor
    others: Tensor
    target: Tensor


def photo_batches(
    captioned: CaptionedEmbeddings,
    batch: int,
    noise: EmbeddingNoise,
    random: np.random.Generator,
) -> Iterator[FusionBatch]:
    """An epoch of photos with stored captions; `others` are the captions used as queries."""
    total = len(captioned.images)
    size = min(batch, total)
    order = random.permutation(total)
    settings = ((0.0, 0.0), (SWAPPED, 0.0), (0.0, MISSING), (SWAPPED / 2, MISSING / 2))
    for start in range(0, total - size + 1, size):
        chosen = order[start : start + size]
        swapped, missing = settings[random.integers(len(settings))]
        stored = np.empty((size, captioned.images.shape[1]), np.float32)
        queries = np.empty(size, np.int64)
        for place, i in enumerate(chosen):
            captions = captioned.offsets[i] + random.permutation(
                captioned.offsets[i + 1] - captioned.offsets[i]
            )
            queries[place] = captions[0]
            # Mostly one caption is stored, sometimes the mean of two or three.
            used = captions[1 : 1 + random.choice((1, 1, 1, 2, 3))]
            stored[place] = captioned.captions[used].mean(0)
        stored = normalise(stored)
        wrong = np.flatnonzero(random.random(size) < swapped)
        stored[wrong] = stored[np.roll(wrong, 1)]
        has_text = random.random(size) >= missing
        yield FusionBatch(
            torch.from_numpy(noise(captioned.images[chosen])),
            torch.from_numpy(stored),
            torch.from_numpy(has_text.astype(np.float32)),
            torch.from_numpy(captioned.captions[queries]),
            torch.arange(size),
        )


def query_batches(
    data: FusionData, batch: int, noise: EmbeddingNoise, random: np.random.Generator
) -> Iterator[FusionBatch]:
    """An epoch of composed queries; `others` are the examples and targets of the batch."""
    queries = data.composed
    size = min(batch, len(queries.texts))
    order = random.permutation(len(queries.texts))
    for start in range(0, len(order) - size + 1, size):
        chosen = order[start : start + size]
        ends = np.concatenate([queries.examples[chosen], queries.targets[chosen]])
        photos, place = np.unique(ends, return_inverse=True)
        gallery = torch.from_numpy(noise(data.images[photos]))
        yield FusionBatch(
            gallery[place[:size]],
            torch.from_numpy(queries.texts[chosen]),
            torch.ones(size),
            gallery,
            torch.from_numpy(place[size:]),
        )
