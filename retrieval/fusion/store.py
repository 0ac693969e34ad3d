"""The fusion of each model on disk: the user's own, else the one in the package, else the mean.

Reads and writes the weights; what they compute is `retrieval.fusion.attention`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from indexes.arrays import Array
from retrieval.errors import ModelError
from retrieval.fusion.attention import Attention, Fusion
from retrieval.fusion.weights_file import (
    Arrays,
    check_shapes,
    last_dimension,
    read_arrays,
    write_arrays,
)

_PACKAGED = Path(__file__).parents[1] / "weights"


@lru_cache(maxsize=4)
def load_fusion(fingerprint: str, dim: int) -> Fusion:
    """The fusion of a model's weights: the user's own, else the one in the package, else the mean.

    A file that cannot be read, or is for other weights, counts as none.
    """
    for file in fusion_files(fingerprint):
        try:
            fusion = read_fusion(file)
        except ModelError:
            continue
        if fusion.about.get("fingerprint") == fingerprint and _dim(fusion) == dim:
            return fusion
    return Fusion()


def fusion_files(fingerprint: str) -> list[Path]:
    """The files that may hold the fusion of a model, in order of precedence."""
    return [user_fusion_file(fingerprint), *sorted(_PACKAGED.glob("*/fusion.safetensors"))]


def user_fusion_file(fingerprint: str) -> Path:
    """The file of the user's own fusion for a model."""
    import platformdirs

    name = fingerprint if fingerprint.isalnum() else "unknown"
    folder = platformdirs.user_data_path("crossmodal-retrieval") / "fusion"
    return folder / f"{name}.safetensors"


def read_fusion(file: Path) -> Fusion:
    """The fusion in a file; raises ModelError if it has none."""
    try:
        arrays, about = read_arrays(file)
        photo, query = (_network(arrays, role) for role in ("photo", "query"))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} holds no fusion ({error}). Train one with `retrieval train-fusion`."
        ) from error
    return Fusion(f"attention-{_digest(arrays)}", photo, query, about)


def save_fusion(fusion: Fusion, file: Path) -> Fusion:
    """Write a fusion as safetensors, in half precision; returns it as it is read back.

    Raises OSError.
    """
    arrays = {
        f"{role}.{part.name}": getattr(network, part.name)
        for role, network in (("photo", fusion.photo), ("query", fusion.query))
        if network is not None
        for part in fields(Attention)
    }
    write_arrays(file, arrays, fusion.about)
    load_fusion.cache_clear()
    return read_fusion(file)


def _network(arrays: Arrays, role: str) -> Attention:
    """The weights of a role; raises ValueError if one is missing or has the wrong shape."""
    prefix = f"{role}."
    parts = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
    h, r, dim = (last_dimension(parts, name) for name in ("score", "bias", "back"))
    shapes: dict[str, tuple[int, ...]] = {"centre": (), "spread": (), "cosine": (h,)}
    shapes |= {"beyond": (h,), "kind": (2, h), "score": (h,)}
    shapes |= {"look": (2, dim, r), "bias": (r,), "back": (r, dim)}
    found = check_shapes(parts, shapes)
    if not found["spread"] > 0:  # cosines are divided by it
        raise ValueError("its spread is not above 0")
    return Attention(**found)


def _dim(fusion: Fusion) -> int:
    assert fusion.photo is not None
    return int(fusion.photo.look.shape[1])


def _digest(arrays: Mapping[str, Array]) -> str:
    state = hashlib.sha256()
    for name in sorted(arrays):
        state.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return state.hexdigest()[:12]
