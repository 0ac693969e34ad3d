"""Small learned weights on disk: arrays in half precision and what they were learned from.

A file is hostile: it is safetensors, of numbers so small that what is computed with them stays
finite, and whoever reads it says which shapes its arrays have to have.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.arrays import Array, Floats

Arrays = dict[str, npt.NDArray[np.float16]]

_FORMAT = "1"
_LARGEST = 16 << 20  # bytes of a file
_MOST = 4_000_000  # numbers in it


def read_arrays(file: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file, float16, all finite, and what is said of them.

    Raises OSError, or ValueError with what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    if file.stat().st_size > _LARGEST:
        raise ValueError("it is too large")
    try:
        with safe_open(file, framework="numpy") as opened:
            meta = opened.metadata() or {}
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        about = json.loads(meta["about"])
        known = meta["format"] == _FORMAT and isinstance(about, dict)
        if not known or any(array.dtype != np.float16 for array in found.values()):
            raise ValueError("its format is not known")
    except (SafetensorError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if sum(array.size for array in found.values()) > _MOST:
        raise ValueError("it is too large")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ValueError("a weight is not a number")
    return found, about


def write_arrays(file: Path, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write arrays in half precision to a temporary name and rename it; raises OSError."""
    from safetensors.numpy import save_file

    halves = {name: np.array(values, np.float16, order="C") for name, values in arrays.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    save_file(halves, temporary, {"format": _FORMAT, "about": json.dumps(dict(about))})
    temporary.replace(file)


def shaped(arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """These arrays as float32; raises ValueError unless each is there and has its shape."""
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            raise ValueError("an array has the wrong shape")
    return {name: np.asarray(arrays[name], np.float32) for name in shapes}


def length(arrays: Mapping[str, Array], name: str) -> int:
    """How long the last dimension of an array is, 0 where it is not there or has none."""
    return arrays[name].shape[-1] if name in arrays and arrays[name].ndim else 0
