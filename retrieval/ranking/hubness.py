"""Biases against hubs: photos that are near to almost every text and so are found too often.

Pure functions of embeddings. They compute what to subtract from each photo's cosine, measured by a
bank of generic queries. Storing the biases of an index is `hub_bias`.
"""

import numpy as np

from indexes.arrays import Bools, Floats

# Chosen on flickr8k's val alone: `python -m benchmarks.ranking_trials` measures them again.
NNN_NEIGHBOURS, NNN_STRENGTH = 16, 0.5
QBNORM_SHARPNESS = 10.0

_ROWS_AT_ONCE = 4096


def nnn_bias(
    photos: Floats, bank: Floats, k: int = NNN_NEIGHBOURS, strength: float = NNN_STRENGTH
) -> Floats:
    """Nearest-neighbour normalisation: strength · the mean of a photo's k highest cosines.

    photos: float32 [n, dim]; bank: float32 [b, dim]; both unit rows. Returns float32 [n]. A bias
    depends on the photo itself and the bank alone, so it can be stored.
    Chowdhury et al., Nearest Neighbor Normalization Improves Multimodal Retrieval, EMNLP 2024.
    """
    k = min(k, len(bank))
    out = np.empty(len(photos), np.float32)
    for start in range(0, len(photos), _ROWS_AT_ONCE):
        scores = photos[start : start + _ROWS_AT_ONCE] @ bank.T
        scores.partition(-k, axis=1)
        out[start : start + _ROWS_AT_ONCE] = strength * scores[:, -k:].mean(1)
    return out


def inverted_softmax_bias(
    photos: Floats, bank: Floats, sharpness: float = QBNORM_SHARPNESS
) -> Floats:
    """The inverted softmax as a bias: log Σ_b exp(sharpness · cosine) / sharpness.

    Dividing exp(sharpness · s) by the sum orders photos as subtracting this from s does.
    photos: float32 [n, dim]; bank: float32 [b, dim]. Returns float32 [n].
    Smith et al., Offline bilingual word vectors, ICLR 2017.
    """
    out = np.empty(len(photos), np.float32)
    for start in range(0, len(photos), _ROWS_AT_ONCE):
        scores = sharpness * (photos[start : start + _ROWS_AT_ONCE] @ bank.T)
        highest = scores.max(1)
        total = np.exp(scores - highest[:, None]).mean(1)
        out[start : start + _ROWS_AT_ONCE] = (highest + np.log(total)) / sharpness
    return out


def hubs(photos: Floats, bank: Floats) -> Bools:
    """Which photos are the first hit of a query of the bank: bool [n].

    The activation set of QB-Norm: Bogolin et al., Cross Modal Retrieval with Querybank
    Normalisation, CVPR 2022.
    """
    found = np.zeros(len(photos), np.bool_)
    for start in range(0, len(bank), 256):
        found[(bank[start : start + 256] @ photos.T).argmax(1)] = True
    return found
