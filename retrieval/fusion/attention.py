"""Attention fusion: how several embeddings become one.

F = normalise(Σ weight_m · e_m + residual). The weights are a softmax over attention scores: for a
photo I with captions T that is F = αI + βT, α + β = 1. The same module fuses the terms of a query.
Untrained, it is the normalised mean. Of photos alone, or texts alone, it is always the weighted
mean. Unwanted terms are subtracted after that.

`attend` is written once for numpy and torch arrays, so a search needs no torch and training learns
exactly what a search computes. Files of weights are read by `retrieval.fusion.store`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from indexes.arrays import Floats

Role = Literal["photo", "query"]

MEAN = "mean"
"""The name of the untrained fusion."""
PHOTO, TEXT = 0, 1
"""The kinds of embeddings."""
# The share of an unwanted term that is subtracted, chosen by `python -m benchmarks.unwanted` on
# Flickr8k's validation photos. Subtracting all of it would make the query point away from the
# unwanted rather than towards the wanted.
UNWANTED_STRENGTH = 0.5
_MAX_SCORE = 30.0  # the exponential of a score stays finite


def normalise(rows: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows of length one, float32 [..., dim]; a row of zeros stays a row of zeros."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    result: Floats = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return result


# The network -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """The weights of one role, float32 arrays of numpy or torch; h and r are free.

    An embedding is scored by its cosine to the mean of the other kind: centre, spread: [] bring
    that cosine to a common scale; cosine, beyond: [h]; kind: [2, h]; score: [h]. The residual is
    computed from both kinds: look: [2, dim, r]; bias: [r]; back: [r, dim]. With `score` and `back`
    zero the result is the mean. The names are those of the tensors in the file.
    """

    centre: Any
    spread: Any
    cosine: Any
    beyond: Any
    kind: Any
    score: Any
    look: Any
    bias: Any
    back: Any


@dataclass(frozen=True)
class AttentionOutput:
    """The fusion of n items.

    sums: [n, dim], not yet of length one; weights: of each modality, [n] each, summing to one over
    those present; residual: what it added, [n, dim], None for nothing.
    """

    sums: Any
    weights: list[Any]
    residual: Any


def attend(
    network: Attention | None,
    rows: Sequence[Any],
    kinds: Sequence[int],
    present: Sequence[Any],
    user_weights: Sequence[float] | None = None,
) -> AttentionOutput:
    """Fuse any number of modalities, each for n items at once.

    rows: [n, dim] unit rows for each modality; kinds: PHOTO or TEXT for each; present: [n] of 1
    and 0 for each: a missing modality is masked out of the softmax; user_weights: multiply the
    attention weights. numpy or torch, differentiable in torch.
    """
    means, counts = [], []  # of each kind
    for kind in (PHOTO, TEXT):
        members = [m for m, k in enumerate(kinds) if k == kind]
        count = sum(present[m] for m in members)
        if members:
            means.append(sum(rows[m] * present[m][:, None] for m in members) / _at_least_1(count))
        else:
            means.append(None)
        counts.append(count if members else 0 * present[0])
    both = (counts[PHOTO] > 0) * (counts[TEXT] > 0) * 1.0
    unnormalised = []
    for m, kind in enumerate(kinds):
        weight = present[m] * (1.0 if user_weights is None else user_weights[m])
        other = means[1 - kind]
        if network is not None and other is not None:
            agreement = ((rows[m] * other).sum(-1) - network.centre) / network.spread
            above = (agreement + abs(agreement)) / 2
            hidden = agreement[:, None] * network.cosine + above[:, None] * network.beyond
            score = tanh(hidden + network.kind[kind]) @ network.score
            weight = weight * _exp(both * score.clip(-_MAX_SCORE, _MAX_SCORE))
        unnormalised.append(weight)
    total = sum(unnormalised)
    weights = [weight / total for weight in unnormalised]
    sums = sum(w[:, None] * e for w, e in zip(weights, rows, strict=True))
    if network is None or means[PHOTO] is None or means[TEXT] is None:
        return AttentionOutput(sums, weights, None)
    # Unit rows have elements of about 1 / √dim: the root brings them to the scale of tanh.
    scale = float(rows[0].shape[1]) ** 0.5
    hidden = sum(means[kind] @ network.look[kind] for kind in (PHOTO, TEXT)) * scale + network.bias
    residual = both[:, None] * (tanh(hidden) @ network.back)
    return AttentionOutput(sums + residual, weights, residual)


def _at_least_1(count: Any) -> Any:
    return (count + (count == 0) * 1.0)[:, None]


def tanh(x: Any) -> Any:
    """The hyperbolic tangent of a numpy or torch array."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def _exp(x: Any) -> Any:
    return np.exp(x) if isinstance(x, np.ndarray) else x.exp()


# Photos and queries ----------------------------------------------------------------------------


@dataclass(frozen=True)
class FusedQuery:
    """A query as one vector, and the part of each term in it.

    vector: float32 [dim], of length one; parts: float32 [terms, dim], in the order of the terms;
    joint: float32 [dim], what belongs to no term alone. `vector` is the sum of parts and joint.
    """

    vector: Floats
    parts: Floats
    joint: Floats

    @classmethod
    def of_row(cls, row: Floats) -> "FusedQuery":
        """A query of one term: its unit row, float32 [dim]."""
        return cls(row, row[None], np.zeros_like(row))


@dataclass(frozen=True)
class Fusion:
    """The fusion of one model.

    name: of these weights, 'mean' if untrained; photo, query: the network of each role, None for
    the mean; about: a record of the training.
    """

    name: str = MEAN
    photo: Attention | None = None
    query: Attention | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def photos(self, images: Floats, captions: Floats) -> tuple[Floats, Floats]:
        """Photos fused with their captions.

        images, captions: float32 [n, dim] unit rows. Returns unit rows, float32 [n, dim], and the
        weight α of the photo itself, float32 [n].
        """
        here = np.ones(len(images), np.float32)
        found = attend(self.photo, [images, captions], (PHOTO, TEXT), [here, here])
        return normalise(found.sums), np.asarray(found.weights[0], np.float32)

    def terms(
        self, rows: Floats, kinds: Sequence[int], weights: Sequence[float], wanted: Sequence[bool]
    ) -> FusedQuery:
        """The terms of a query as one vector.

        rows: float32 [n, dim] unit rows, one for each term; kinds: PHOTO or TEXT; weights: n
        positive numbers that multiply the attention weights; wanted: terms that are not wanted are
        subtracted, see `unwanted_parts`.
        """
        yes = [i for i, w in enumerate(wanted) if w]
        no = [i for i, w in enumerate(wanted) if not w]
        found = attend(
            self.query,
            [rows[i][None] for i in yes],
            [kinds[i] for i in yes],
            [np.ones(1, np.float32)] * len(yes),
            [float(weights[i]) for i in yes],
        )
        length = max(float(np.linalg.norm(found.sums[0])), 1e-12)
        parts = np.zeros_like(rows)
        for i, weight in zip(yes, found.weights, strict=True):
            parts[i] = weight[0] / length * rows[i]
        residual = found.residual
        joint = np.zeros_like(rows[0]) if residual is None else (residual[0] / length).astype("f4")
        vector = normalise(found.sums[0])
        if no:
            less = unwanted_parts(vector, rows[no], [weights[i] for i in no])
            length = max(float(np.linalg.norm(vector - less.sum(0))), 1e-12)
            vector = normalise(vector - less.sum(0))
            parts[no] = -less
            parts, joint = parts / np.float32(length), joint / np.float32(length)
        return FusedQuery(vector, parts, joint)


def compose(fusion: Fusion, photos: Floats, texts: Floats) -> Floats:
    """Queries of an example photo and a text each: float32 [n, dim] unit rows in and out."""
    here = np.ones(len(photos), np.float32)
    return normalise(attend(fusion.query, [photos, texts], (PHOTO, TEXT), [here, here]).sums)


def unwanted_parts(wanted: Floats, unwanted: Floats, weights: Sequence[float]) -> Floats:
    """What is subtracted from a fused query for each unwanted term, float32 [n, dim].

    wanted: the fused query, float32 [dim], of length one; unwanted: float32 [n, dim], unit rows;
    weights: n positive numbers. Only the component orthogonal to the query is subtracted: 'beach,
    not people' still asks for a beach.
    """
    beyond = unwanted - (unwanted @ wanted)[:, None] * wanted
    strength = UNWANTED_STRENGTH * np.asarray(weights, np.float32)
    result: Floats = (strength[:, None] * beyond).astype(np.float32)
    return result
