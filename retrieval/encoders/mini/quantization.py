"""The 256 levels that an 8-bit convolution of `mini` rounds what it is given to.

A convolution with int8 weights has, beside them, `NAME.input`: the step between two levels and the
number of the level that stands for zero. Jacob et al., Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Array, Floats

LEVELS = 256


@dataclass(frozen=True)
class Levels:
    """(number - zero) * step, for numbers from 0 to 255."""

    step: float
    zero: int

    def __post_init__(self) -> None:
        if not (0 < self.step < math.inf and 0 <= self.zero < LEVELS):
            raise ValueError(f"no levels have the step {self.step} and the zero {self.zero}")

    @property
    def low(self) -> float:
        return -self.zero * self.step

    @property
    def high(self) -> float:
        return (LEVELS - 1 - self.zero) * self.step

    def stored(self) -> Floats:
        """As a tensor of a model file: float32 [2]."""
        return np.array([self.step, self.zero], np.float32)


def levels_of(weights: Mapping[str, Array], name: str) -> Levels | None:
    """The levels of the convolution `name`, none where it computes in floats.

    Raises ValueError where they are no levels.
    """
    stored = weights.get(f"{name}.input")
    if stored is None:
        return None
    step, zero = np.asarray(stored, np.float32).reshape(2).tolist()
    return Levels(step, int(zero) if math.isfinite(zero) else -1)


def bits_of(weights: Mapping[str, Array], tower: str) -> int:
    """8 or 16: what the tower's convolutions are stored in, all of them alike.

    tower: what the names of its tensors begin with.
    """
    return 8 if f"{tower}stem.input" in weights else 16
