"""Small trained weights on disk: arrays in half precision and a record of their training.

A file may be hostile. It is safetensors, of numbers so small that all that is computed with them
stays finite, and its reader checks the shapes of its arrays.
"""

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from indexes.arrays import Array, Floats
from indexes.atomic_write import atomic_write

Arrays = dict[str, npt.NDArray[np.float16]]

_FORMAT = "1"
_MOST_BYTES = 16 << 20
_MOST_NUMBERS = 4_000_000


def read_arrays(file: Path) -> tuple[Arrays, dict[str, Any]]:
    """The arrays of a file, float16, all finite, and the record of their training.

    Raises OSError, or ValueError with what is wrong.
    """
    from safetensors import SafetensorError, safe_open

    state = file.stat()
    if not stat.S_ISREG(state.st_mode):  # reading a pipe would never end
        raise ValueError("it is not a file")
    if state.st_size > _MOST_BYTES:
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
    if sum(array.size for array in found.values()) > _MOST_NUMBERS:
        raise ValueError("it is too large")
    if not all(np.isfinite(array).all() for array in found.values()):
        raise ValueError("a weight is not a number")
    return found, about


def write_arrays(file: Path, arrays: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Write arrays in half precision; raises OSError."""
    from safetensors.numpy import save_file

    halves = {name: np.array(values, np.float16, order="C") for name, values in arrays.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        save_file(halves, temporary, {"format": _FORMAT, "about": json.dumps(dict(about))})


def check_shapes(
    arrays: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Floats]:
    """The named arrays as float32; raises ValueError unless each exists and has its shape."""
    for name, shape in shapes.items():
        if name not in arrays or arrays[name].shape != shape:
            raise ValueError("an array has the wrong shape")
    return {name: np.asarray(arrays[name], np.float32) for name in shapes}


def last_dimension(arrays: Mapping[str, Array], name: str) -> int:
    """The length of an array's last dimension; 0 if the array is missing or a scalar."""
    return arrays[name].shape[-1] if name in arrays and arrays[name].ndim else 0
