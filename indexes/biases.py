"""Biases: one number for each photo, subtracted from its cosine when photos are ranked.

The file is a cache. A photo's bias never changes under its id: a file stays right while photos are
added, and only what it lacks is computed. What a bias means is decided elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.atomic_write import atomic_write
from indexes.regular_files import read_regular

_FIRST_COUNT = 512  # nearest photos that a bias is applied to at first
_ROW = np.dtype([("id", "<i8"), ("bias", "<f4")])


@dataclass(frozen=True)
class Biases:
    """ids: int64 [n], ascending; values: float32 [n]."""

    ids: Ints
    values: Floats

    @cached_property
    def minimum(self) -> float:
        """The lowest bias, 0 if there are none."""
        return float(self.values.min()) if len(self.values) else 0.0

    def of(self, ids: Ints) -> Floats:
        """The biases of these photos, float32 [m]; all ids have to be known."""
        found: Floats = self.values[np.searchsorted(self.ids, ids)]
        return found

    def cover(self, ids: Ints, upto: int) -> bool:
        """Whether all of these ids that are at most `upto` are known."""
        return bool(np.isin(ids[ids <= upto], self.ids, assume_unique=True).all())

    def up_to(self, newest: int) -> "Biases":
        """Without photos whose ids are above `newest`."""
        count = int(np.searchsorted(self.ids, newest, side="right"))
        return self if count == len(self.ids) else Biases(self.ids[:count], self.values[:count])

    def extended(self, ids: Ints, values: Floats) -> "Biases":
        """With the biases of newer photos, whose ids are above all that are known."""
        return Biases(np.concatenate([self.ids, ids]), np.concatenate([self.values, values]))


NO_BIASES = Biases(np.empty(0, np.int64), np.empty(0, np.float32))


def search_with_bias(
    nearest: Callable[[int], tuple[Ints, Floats]], k: int, bias: Biases
) -> tuple[Ints, Floats]:
    """The k photos of highest cosine less bias, exactly, from searches by cosine alone.

    nearest: gives the ids and cosines of as many nearest photos as asked for, best first.
    Returns ids, int64 [m], and cosines (without the bias), float32 [m], with m ≤ k.

    A photo that is not among the nearest has at most the cosine of the last of them, and its bias
    is at least the minimum. Once that difference is below the k-th best result, no such photo can
    be among the first k; until then the search takes in more.
    """
    count = max(_FIRST_COUNT, 4 * k)
    while True:
        ids, scores = nearest(count)
        biased = scores - bias.of(ids)
        order = np.lexsort((ids, -biased))[:k]
        if len(ids) < count or biased[order[-1]] > scores[-1] - bias.minimum:
            return ids[order], scores[order]
        count *= 4


def load(path: Path, most_bytes: int) -> Biases:
    """The biases in a file; NO_BIASES if it is missing, damaged or larger than `most_bytes`."""
    try:
        data = read_regular(path, most_bytes)
    except OSError:
        return NO_BIASES
    if len(data) % _ROW.itemsize:
        return NO_BIASES
    rows = np.frombuffer(data, _ROW)
    ids, values = rows["id"].astype(np.int64), rows["bias"].astype(np.float32)
    sound = bool((np.diff(ids, prepend=0) > 0).all() and np.isfinite(values).all())
    return Biases(ids, values) if sound else NO_BIASES


def save(biases: Biases, path: Path) -> None:
    """Write biases to a file; raises OSError."""
    rows = np.empty(len(biases.ids), _ROW)
    rows["id"], rows["bias"] = biases.ids, biases.values
    with atomic_write(path) as temporary:
        temporary.write_bytes(rows.tobytes())
