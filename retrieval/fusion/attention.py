"""Attention fusion: how several embeddings become one.

F = normalise(Σ weight_m · e_m + residual), the weights from attention through a softmax: for a
photo I and its captions T that is F = αI + βT, α + β = 1, and the same module joins the terms of a
query. Untrained it is the normalised mean. Where only photos or only texts are present it is their
weighted mean, whatever was trained. Unwanted terms are subtracted after that.

`attend` is written once for numpy and torch arrays, so that a search needs no torch and training
learns exactly what a search computes.
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
"""The kinds of embeddings that are told apart."""
# How much of the unwanted is taken away, chosen by `python -m benchmarks.unwanted` on Flickr8k's
# validation photos. Subtracting all of it would leave the query pointing away from the unwanted
# rather than towards the wanted.
UNWANTED_STRENGTH = 0.5
_HIGHEST = 30.0  # of a score: its exponential stays a number


def normalise(rows: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows of length one, float32 [..., dim]; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    result: Floats = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return result


# The network -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attention:
    """The weights of one role, float32 arrays of numpy or torch; h and r are free.

    An embedding is scored by how well it agrees with those of the other kind. centre, spread: []
    bring that cosine to a common scale; cosine, beyond: [h]; kind: [2, h]; score: [h]. The residual
    looks at both kinds, look: [2, dim, r]; bias: [r]; back: [r, dim]. With `score` and `back` zero
    this is the mean.
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
class Attended:
    """What became of n items: `sums` [n, dim], before it is brought to length one; the weight of
    each modality, [n] each, summing to one over those present; what the residual added, [n, dim],
    None for nothing."""

    sums: Any
    weights: list[Any]
    residual: Any


def attend(
    network: Attention | None,
    rows: Sequence[Any],
    kinds: Sequence[int],
    present: Sequence[Any],
    users: Sequence[float] | None = None,
) -> Attended:
    """Fuse any number of modalities, each for n items at once.

    rows: [n, dim] unit rows a modality; kinds: PHOTO or TEXT for each; present: [n] of 1 and 0 for
    each, what is not present is masked out of the softmax; users: weights that multiply the
    attention. numpy or torch, differentiable in the latter.
    """
    means, there = [], []
    for kind in (PHOTO, TEXT):
        own = [m for m, k in enumerate(kinds) if k == kind]
        count = sum(present[m] for m in own)
        if own:
            means.append(sum(rows[m] * present[m][:, None] for m in own) / _at_least_1(count))
        else:
            means.append(None)
        there.append(count if own else 0 * present[0])
    both = (there[PHOTO] > 0) * (there[TEXT] > 0) * 1.0
    raw = []
    for m, kind in enumerate(kinds):
        weight = present[m] * (1.0 if users is None else users[m])
        other = means[1 - kind]
        if network is not None and other is not None:
            agreement = ((rows[m] * other).sum(-1) - network.centre) / network.spread
            above = (agreement + abs(agreement)) / 2
            seen = agreement[:, None] * network.cosine + above[:, None] * network.beyond
            score = tanh(seen + network.kind[kind]) @ network.score
            weight = weight * _exp(both * score.clip(-_HIGHEST, _HIGHEST))
        raw.append(weight)
    total = sum(raw)
    weights = [weight / total for weight in raw]
    sums = sum(w[:, None] * e for w, e in zip(weights, rows, strict=True))
    if network is None or means[PHOTO] is None or means[TEXT] is None:
        return Attended(sums, weights, None)
    # Unit rows have elements of about 1 / √dim: the root brings them to the scale of tanh.
    scale = float(rows[0].shape[1]) ** 0.5
    seen = sum(means[kind] @ network.look[kind] for kind in (PHOTO, TEXT)) * scale + network.bias
    residual = both[:, None] * (tanh(seen) @ network.back)
    return Attended(sums + residual, weights, residual)


def _at_least_1(count: Any) -> Any:
    return (count + (count == 0) * 1.0)[:, None]


def tanh(x: Any) -> Any:
    """Of numpy or torch arrays."""
    return np.tanh(x) if isinstance(x, np.ndarray) else x.tanh()


def _exp(x: Any) -> Any:
    return np.exp(x) if isinstance(x, np.ndarray) else x.exp()


# What is used ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FusedQuery:
    """A query's vector, float32 [dim], of length one, and what each term is in it.

    parts: float32 [terms, dim], one a term in the order given; together: float32 [dim], what
    belongs to no term alone. `vector` is their sum.
    """

    vector: Floats
    parts: Floats
    together: Floats

    @classmethod
    def one(cls, row: Floats) -> "FusedQuery":
        """A query of one term, which is its row."""
        return cls(row, row[None], np.zeros_like(row))


@dataclass(frozen=True)
class Fusion:
    """What fuses for one model. name: of these weights, 'mean' if untrained; about: what they were
    trained on and gave."""

    name: str = MEAN
    photo: Attention | None = None
    query: Attention | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    def photos(self, images: Floats, captions: Floats) -> tuple[Floats, Floats]:
        """Photos fused with what is said of them.

        images, captions: float32 [n, dim] unit rows. Returns unit rows, float32 [n, dim], and the
        share α of the photo itself, float32 [n].
        """
        here = np.ones(len(images), np.float32)
        found = attend(self.photo, [images, captions], (PHOTO, TEXT), [here, here])
        return normalise(found.sums), np.asarray(found.weights[0], np.float32)

    def terms(
        self, rows: Floats, kinds: Sequence[int], weights: Sequence[float], wanted: Sequence[bool]
    ) -> FusedQuery:
        """The terms of a query as one vector.

        rows: float32 [n, dim] unit rows, a term each; kinds: PHOTO or TEXT; weights: n positive
        numbers that multiply the attention; wanted: what is not is subtracted, see `subtract`.
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
        extra = found.residual
        together = np.zeros_like(rows[0]) if extra is None else (extra[0] / length).astype("f4")
        vector = normalise(found.sums[0])
        if no:
            less = unwanted_parts(vector, rows[no], [weights[i] for i in no])
            length = max(float(np.linalg.norm(vector - less.sum(0))), 1e-12)
            vector = normalise(vector - less.sum(0))
            parts[no] = -less
            parts, together = parts / np.float32(length), together / np.float32(length)
        return FusedQuery(vector, parts, together)


def compose(fusion: Fusion, photos: Floats, texts: Floats) -> Floats:
    """A query of an example photo and a text for each row, float32 [n, dim] unit rows, all."""
    here = np.ones(len(photos), np.float32)
    return normalise(attend(fusion.query, [photos, texts], (PHOTO, TEXT), [here, here]).sums)


def unwanted_parts(wanted: Floats, unwanted: Floats, weights: Sequence[float]) -> Floats:
    """What is taken off a fused query for each unwanted direction, float32 [n, dim].

    wanted: float32 [dim], of length one; unwanted: float32 [n, dim], unit rows; weights: n positive
    numbers. Only what an unwanted row has beyond the query is taken away, so that 'beach, not
    people' still asks for a beach.
    """
    beyond = unwanted - (unwanted @ wanted)[:, None] * wanted
    strength = UNWANTED_STRENGTH * np.asarray(weights, np.float32)
    result: Floats = (strength[:, None] * beyond).astype(np.float32)
    return result
