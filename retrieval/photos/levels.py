"""Numbers of any depth as pixels of 8 bits: which of them is black, and which is white.

A file says how many bits it stores, not how many its camera had, or what its floats mean.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

_STRIP = 256  # rows converted at a time, in float32
_SAMPLE = 1_000_000  # numbers that are looked at to find what floats mean
# What sensors fill of 16, 32 and 64 bits.
_SENSOR_BITS = {16: (10, 12, 14), 32: (10, 12, 14, 16, 24), 64: (10, 12, 14, 16, 24, 32)}
_FLOAT_TOPS = (255.0, 4095.0, 65535.0)
_OVERSHOOT = 0.1  # of floats from 0 to 1 that were resampled


def to_bytes(values: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Numbers as uint8 of the same shape: limits, and what is beyond them, become 0 and 255."""
    low, high = limits
    result = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), _STRIP):
        strip = values[top : top + _STRIP].astype(np.float32)
        np.nan_to_num(strip, copy=False, nan=0.0)
        scaled = (strip - np.float32(low)) * np.float32(255 / ((high - low) or 1.0))
        result[top : top + _STRIP] = np.clip(scaled.round(), 0, 255)
    return result


def find_limits(values: npt.NDArray[Any], bits: int = 0, largest: int = 0) -> tuple[float, float]:
    """The numbers that mean black and white.

    bits: that a number is stored in, if fewer than its type has; largest: the highest number that
    may occur, as the file says; 0 if it does not.
    """
    if values.dtype.kind == "f":
        return _float_limits(values)
    if values.dtype.kind not in "ui":
        raise ValueError(f"{values.dtype} is no number of a pixel")
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0:
        return float(lowest), float(highest)
    bits = (bits or values.dtype.itemsize * 8) - (values.dtype.kind == "i")
    if largest and highest <= largest < 1 << bits:
        return 0.0, float(largest)
    for sensor in _SENSOR_BITS.get(bits + bits % 2, ()):
        if 0 < highest < 1 << sensor:
            return 0.0, float((1 << sensor) - 1)
    return 0.0, float((1 << bits) - 1)


def _float_limits(values: npt.NDArray[Any]) -> tuple[float, float]:
    """0 to 1, as programs write floats; or 0 to the top of an integer; or what most are within."""
    flat = values.reshape(-1)
    sample = flat[:: max(len(flat) // _SAMPLE, 1)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not len(sample):
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(sample, (0.1, 99.9)))
    if low >= -_OVERSHOOT and high <= 1 + _OVERSHOOT:
        return 0.0, 1.0
    for top in _FLOAT_TOPS:
        if low >= 0 and top / 8 < high <= top:
            return 0.0, top
    return (low, high) if high > low else (low, low + 1)
