"""Biases: one number a photo, taken off its cosine when photos are ordered.

The file is a cache like that of the vectors: a photo's bias never changes under its id, so a file
stays right while photos are added, and what it lacks is computed anew. Nothing here decides what a
bias means.
"""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from indexes.arrays import Floats, Ints

_ROW = np.dtype([("id", "<i8"), ("bias", "<f4")])


@dataclass(frozen=True)
class Biases:
    """ids: int64 [n], ascending; values: float32 [n]."""

    ids: Ints
    values: Floats

    @cached_property
    def lowest(self) -> float:
        """The smallest bias, 0 where there are none."""
        return float(self.values.min(initial=np.inf)) if len(self.values) else 0.0

    def of(self, ids: Ints) -> Floats:
        """The biases of these photos, float32 [m]; all of them have to be known."""
        found: Floats = self.values[np.searchsorted(self.ids, ids)]
        return found

    def cover(self, ids: Ints, upto: int) -> bool:
        """Whether the biases of all these photos with an id of at most `upto` are known."""
        return bool(np.isin(ids[ids <= upto], self.ids, assume_unique=True).all())

    def extended(self, ids: Ints, values: Floats) -> "Biases":
        """With those of newer photos, whose ids are above all known."""
        return Biases(np.concatenate([self.ids, ids]), np.concatenate([self.values, values]))


NONE = Biases(np.empty(0, np.int64), np.empty(0, np.float32))


def load(path: Path) -> Biases:
    """The biases in a file; none where it is missing or is not such a file."""
    try:
        data = path.read_bytes()
    except OSError:
        return NONE
    if len(data) % _ROW.itemsize:
        return NONE
    rows = np.frombuffer(data, _ROW)
    ids, values = rows["id"].astype(np.int64), rows["bias"].astype(np.float32)
    sound = bool((np.diff(ids, prepend=0) > 0).all() and np.isfinite(values).all())
    return Biases(ids, values) if sound else NONE


def save(biases: Biases, path: Path) -> None:
    """Write biases to a temporary name beside `path`, then rename it; raises OSError."""
    rows = np.empty(len(biases.ids), _ROW)
    rows["id"], rows["bias"] = biases.ids, biases.values
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(rows.tobytes())
            os.fsync(file.fileno())  # a name must never reach the disk before its content
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
