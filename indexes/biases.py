"""Biases: one number for each photo, subtracted from its cosine when photos are ranked.

They lie beside the rows of an index, in parts as these do. What a bias means is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from indexes.arrays import Floats, Ints
from indexes.vectors.rows import Bias


@dataclass(frozen=True)
class Biases:
    """The biases of all photos of an index.

    ids: int64 [n] for each part, ascending; parts: the biases of these, [n] each.
    """

    ids: Sequence[Ints]
    parts: Sequence[Bias]

    @cached_property
    def mean(self) -> float:
        """The mean over all photos, 0 if there are none."""
        count = sum(len(part.values) for part in self.parts)
        total = sum(float(part.values.sum(dtype=np.float64)) for part in self.parts)
        return total / count if count else 0.0

    def of(self, ids: Ints) -> Floats:
        """The biases of these photos, float32 [m]; all ids have to be known.

        The last part that has an id decides: it is the newer one.
        """
        found = np.zeros(len(ids), np.float32)
        for known, part in zip(self.ids, self.parts, strict=True):
            if not len(known):
                continue
            places = np.searchsorted(known, ids).clip(max=len(known) - 1)
            here = known[places] == ids
            found[here] = part.values[places[here]]
        return found
