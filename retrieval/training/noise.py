"""Noise that makes training photos as hard to find as new ones.

The model embeds photos that it was trained on better than new ones; a fusion or a matching trained
on those embeddings would trust the photo too much. Noise with the covariance of the embeddings,
just strong enough that captions find the training photos no better than the held-out ones, removes
this advantage.
"""

import numpy as np

from indexes.arrays import Floats
from retrieval.evaluation.fusion_cases import recall_at
from retrieval.evaluation.fusion_data import CaptionedEmbeddings
from retrieval.fusion.attention import normalise


class EmbeddingNoise:
    """Adds noise with the covariance of `images`, float32 [m, dim], to unit rows."""

    def __init__(self, images: Floats, strength: float, random: np.random.Generator) -> None:
        self.strength, self.random = strength, random
        self._root = _covariance_root(images)

    def __call__(self, rows: Floats) -> Floats:
        """Noisy unit rows, float32 [n, dim]; for strength 0 the rows as they are."""
        if not self.strength:
            return rows
        noise = self.random.standard_normal(rows.shape, np.float32) @ self._root
        return normalise(rows + np.float32(self.strength) * noise)


def _covariance_root(rows: Floats) -> Floats:
    """A square root of the covariance of rows, float32 [dim, dim]."""
    values, vectors = np.linalg.eigh(np.cov(rows.T.astype(np.float64)))
    result: Floats = (np.sqrt(np.maximum(values, 0))[:, None] * vectors.T).astype(np.float32)
    return result


def match_noise(
    training: CaptionedEmbeddings, held_out: CaptionedEmbeddings, random: np.random.Generator
) -> float:
    """The strength of noise with which captions find training photos no better than held-out ones.

    Found by bisection on R@1 over equally many photos; 0 if they are found no better without noise.
    """
    count = min(len(training.images), len(held_out.images), 1000)

    def recall(captioned: CaptionedEmbeddings, strength: float) -> float:
        chosen = np.sort(np.random.default_rng(0).permutation(len(captioned.images))[:count])
        images = EmbeddingNoise(captioned.images, strength, random)(captioned.images[chosen])
        texts, owners = [], []
        for place, i in enumerate(chosen):
            rows = captioned.captions[captioned.offsets[i] : captioned.offsets[i + 1]]
            texts.append(rows)
            owners += [place] * len(rows)
        return recall_at(1, np.concatenate(texts), images, np.array(owners))

    goal = recall(held_out, 0.0)
    if recall(training, 0.0) <= goal:
        return 0.0
    low, high = 0.0, 2.0
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if recall(training, middle) > goal else (low, middle)
    return (low + high) / 2
