"""Fusion: how several embeddings become one.

F = normalise(Σ weight_m · e_m) with weights that sum to one; here they are the user's. What is
unwanted is subtracted after that. Which photos or words the embeddings stand for is not known here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

NAME = "mean"
# How much of the unwanted is taken away. Subtracting all of it would leave the query pointing away
# from the unwanted rather than towards the wanted.
UNWANTED_STRENGTH = 0.5


def normalise(rows: npt.NDArray[np.floating[Any]]) -> Floats:
    """Rows of length one, float32 [..., dim]; a row of zeros stays one."""
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    result: Floats = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return result


def fuse(rows: Floats, weights: Sequence[float]) -> Floats:
    """The normalised weighted mean of unit rows.

    rows: float32 [n, dim]; weights: n positive numbers. Returns float32 [dim], of length one.
    """
    shares = np.asarray(weights, np.float32) / np.float32(sum(weights))
    return normalise(shares @ rows)


def subtract(wanted: Floats, unwanted: Floats, weights: Sequence[float]) -> Floats:
    """Turn a fused query away from unwanted directions.

    wanted: float32 [dim], of length one; unwanted: float32 [n, dim], unit rows; weights: n positive
    numbers. Only what an unwanted row has beyond the query is taken away, so that 'beach, not
    people' still asks for a beach. Returns float32 [dim], of length one.
    """
    beyond = unwanted - (unwanted @ wanted)[:, None] * wanted
    strength = UNWANTED_STRENGTH * np.asarray(weights, np.float32)
    return normalise(wanted - strength @ beyond)
