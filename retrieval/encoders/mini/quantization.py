"""The 8-bit quantization of what enters the convolutions of `mini`.

A convolution with int8 weights has a tensor `NAME.input` that holds the scale and the zero point of
its input. Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from indexes.arrays import Array, Floats

LEVELS = 256


@dataclass(frozen=True)
class Quantization:
    """The values (q - zero_point) * scale for integers q from 0 to 255."""

    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if not (0 < self.scale < math.inf and 0 <= self.zero_point < LEVELS):
            raise ValueError(f"bad quantization: scale {self.scale}, zero point {self.zero_point}")

    @property
    def low(self) -> float:
        """The lowest value."""
        return -self.zero_point * self.scale

    @property
    def high(self) -> float:
        """The highest value."""
        return (LEVELS - 1 - self.zero_point) * self.scale

    def as_tensor(self) -> Floats:
        """As a tensor of a model file: float32 [2]."""
        return np.array([self.scale, self.zero_point], np.float32)


def input_quantization(weights: Mapping[str, Array], name: str) -> Quantization | None:
    """How the input of the convolution `name` is quantized; None if it computes in floats.

    Raises ValueError if the tensor does not hold a scale and a zero point.
    """
    tensor = weights.get(f"{name}.input")
    if tensor is None:
        return None
    scale, zero_point = np.asarray(tensor, np.float32).reshape(2).tolist()
    return Quantization(scale, int(zero_point) if math.isfinite(zero_point) else -1)


def weight_bits(weights: Mapping[str, Array], tower: str) -> int:
    """The bits, 8 or 16, that the weights of all convolutions of a tower are stored in.

    tower: the prefix of its tensors' names.
    """
    return 8 if f"{tower}stem.input" in weights else 16
