"""Checks the files of an open_clip model before anything is allocated for them.

A configuration may ask for layers without end, and a checkpoint of a few bytes may claim tensors of
terabytes. Whether the weights fit the architecture is for open_clip to say.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from indexes.lazy_imports import load_torch
from retrieval.encoders.base import checked_size
from retrieval.errors import ModelError
from retrieval.memory import available_memory

_MAX_CONFIG_BYTES = 1 << 20
_MAX_NUMBER = 1 << 24  # of any whole number in a configuration
_MAX_LIMITS = {
    "layers": 512,
    "width": 1 << 14,
    "image_size": 1 << 12,
    "context_length": 1 << 14,
    "embed_dim": 1 << 16,
}
_MAX_TOKENS = 1 << 14  # patches of a photo
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def read_config(file: Path) -> Any:
    """An open_clip_config.json; raises ModelError if it asks for more than any model needs."""
    try:
        checked_size(file, _MAX_CONFIG_BYTES)
        config = json.loads(file.read_bytes())
        _check_numbers(config, "")
    except (OSError, ValueError, RecursionError) as error:
        raise _error(file, error) from error
    return config


def check_checkpoint(file: Path) -> None:
    """Raise ModelError if a checkpoint exceeds the memory, or claims to hold more than it has.

    Of a checkpoint of torch only the shapes are read, by the weights-only loader.
    """
    try:
        _check_memory(file)
        if file.suffix in (".safetensors", ".npz", ".npy"):
            return  # their readers compare sizes with the file
        if not zipfile.is_zipfile(file):
            raise ValueError("it is not in the format of torch 1.6 or later")
        torch = load_torch()
        state = torch.load(file, map_location="meta", weights_only=True)
        claimed = sum(t.numel() * t.element_size() for t in _tensors(state, 0))
    except ModelError:
        raise
    except Exception as error:  # the loader raises whatever a bad file leads to
        raise _error(file, error) from error
    # Tensors may share their storage, so a whole file can claim somewhat more than it has.
    if claimed > 4 * file.stat().st_size:
        raise _error(file, f"it claims {claimed:,} bytes of tensors")


def check_folder(folder: Path) -> None:
    """Check configuration and checkpoints of a `local-dir:`; raises ModelError.

    A model that asks for more parameters than the checkpoints have bytes is rejected.
    """
    file = folder / "open_clip_config.json"
    config = read_config(file)
    checkpoints = [f for f in folder.iterdir() if f.suffix in _SUFFIXES and f.is_file()]
    for checkpoint in checkpoints:
        check_checkpoint(checkpoint)
    available = max((checkpoint.stat().st_size for checkpoint in checkpoints), default=0)
    model = config.get("model_cfg") if isinstance(config, dict) else None
    if not isinstance(model, dict):
        raise _error(file, "it has no model_cfg")
    towers = [part for part in model.values() if isinstance(part, dict)]
    dim = _number(model, "embed_dim")  # both towers end in a projection to it
    needed = sum(_parameters(tower) + dim * _number(tower, "width") for tower in towers)
    if needed > available:
        raise _error(
            file, f"it asks for {needed:,} parameters, the checkpoint has {available:,} bytes"
        )


def _parameters(part: Mapping[str, Any]) -> int:
    """A lower bound of the parameters of a transformer tower; 0 for other kinds."""

    width = _number(part, "width")
    tokens = _number(part, "vocab_size") + _number(part, "context_length") + _patches(part)
    return _number(part, "layers") * 4 * width**2 + tokens * width


def _patches(part: Mapping[str, Any]) -> int:
    """How many patches a vision transformer cuts a photo into; 0 for other towers."""
    patch = _number(part, "patch_size")
    return (_number(part, "image_size") // patch) ** 2 if patch else 0


def _number(part: Mapping[str, Any], name: str) -> int:
    """A whole number of a configuration; 0 for a missing or negative one, or a list."""
    value = part.get(name)
    return max(value, 0) if isinstance(value, int) else 0


def _check_numbers(value: Any, name: str) -> None:
    """Raise ValueError for a number that no model has, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_numbers(inner, key)
        if (patches := _patches(value)) > _MAX_TOKENS:
            raise ValueError(f"{patches:,} patches are too many")
    elif isinstance(value, list):
        for inner in value:
            _check_numbers(inner, name)
    elif isinstance(value, int | float):
        limit = _MAX_LIMITS.get(name, _MAX_NUMBER)
        if not -limit <= value <= limit:
            raise ValueError(f"{name[:40]} is {str(value)[:20]}, beyond {limit:,}")


def _check_memory(file: Path) -> None:
    free = available_memory()
    size = checked_size(file, 1 << 60)
    if size > free:
        raise ValueError(
            f"it has {size / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB of memory are free"
        )


def _tensors(value: Any, depth: int) -> Iterable[Any]:
    """All tensors in a checkpoint, which nests them in dictionaries and lists."""
    if depth > 20:
        raise ValueError("it nests too deeply")
    if hasattr(value, "element_size"):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner, depth + 1)


def _error(file: Path, reason: object) -> ModelError:
    text = " ".join(str(reason).split())[:200].rstrip(".") or type(reason).__name__
    return ModelError(
        f"The model cannot be loaded from {file}: {text}. Check that the file is not damaged, or "
        "choose another model with --model."
    )
