"""Reads the folder of a model of the kind of `mini`, and checks it before anything is allocated.

A folder may be damaged or hostile. config.json is bounded first; it then says which tensors there
are and how large they may be, and the header of model.safetensors has to agree before a tensor is
read. What the tensors compute is not known here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from indexes.arrays import Array
from retrieval.encoders.base import checked_size
from retrieval.encoders.mini.text import tokenizer_errors
from retrieval.errors import ModelError

WEIGHTS = Path(__file__).resolve().parents[2] / "weights" / "mini"
FORMAT = 2
_READABLE_FORMATS = (1, 2)  # format 1 has no 8-bit convolutions

# Far above any model of this kind, far below what would exhaust a machine.
_MAX_BYTES = {"config.json": 1 << 20, "tokenizer.json": 1 << 26, "model.safetensors": 1 << 28}
_MAX_ACTIVATIONS = 1 << 26  # numbers that one layer of the image tower computes for a photo
_FLOATS = ("F16", "F32")

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def read_config(folder: Path) -> Config:
    """config.json, with every number within its limits. Raises ModelError."""
    path = folder / "config.json"
    try:
        config = json.loads(_read_bytes(path))
        if not isinstance(config, dict):
            raise ValueError("it is not an object")
        if config.get("format") not in _READABLE_FORMATS:
            raise ValueError(f"format {str(config.get('format'))[:20]}, not {FORMAT}")
        _check_config(config)
    except (OSError, ValueError, RecursionError) as error:
        raise read_error(path, error) from error
    return config


def read_tokenizer(folder: Path, words: int, longest: int) -> Tokenizer:
    """tokenizer.json, cutting texts after `longest` tokens.

    words: the rows of the table of token embeddings. Raises ModelError, also for a tokenizer with
    tokens that have no row.
    """
    path = folder / "tokenizer.json"
    try:
        with tokenizer_errors():
            tokenizer = Tokenizer.from_str(_read_bytes(path).decode("utf-8"))
            tokenizer.no_padding()
            tokenizer.enable_truncation(longest)
            # Special tokens may be named with ids of their own, outside the vocabulary.
            highest = max(tokenizer.encode("a photo").ids, default=0)
            if folder != WEIGHTS:  # takes 10 ms
                highest = max([highest, *tokenizer.get_vocab(True).values()])
        if highest >= words:
            raise ValueError(f"it has token {highest}, but the model only {words} embeddings")
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error
    return tokenizer


def check_layout(folder: Path, config: Config) -> Shapes:
    """The tensors of model.safetensors and their shapes, read from its header alone.

    Raises ModelError unless they are those of the model that `config` describes.
    """
    path = folder / "model.safetensors"
    try:
        _check_size(path)
        with _open_tensors(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
            types = {name: str(s.get_dtype()) for name, s in slices.items()}
        _check_tensors(config, shapes, types)
    except (OSError, ValueError) as error:
        raise read_error(path, error) from error
    return shapes


def read_tensors(path: Path, prefix: str) -> dict[str, Array]:
    """The tensors of a safetensors file whose names start with `prefix`, named without it.

    Raises ModelError if the file is missing or damaged, or a weight is not finite.
    """
    try:
        _check_size(path)
        with _open_tensors(path) as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            tensors = {name.removeprefix(prefix): file.get_tensor(name) for name in names}
        for name, values in tensors.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise ValueError(f"{prefix}{name} has a weight that is not a number")
    except (OSError, ValueError, TypeError) as error:
        raise read_error(path, error) from error
    return tensors


def read_error(path: Path, reason: object) -> ModelError:
    """The error for a file of a model folder that cannot be used."""
    text = " ".join(str(reason).split())[:200].rstrip(".") or type(reason).__name__
    if path.parent == WEIGHTS:
        return ModelError(
            f"The built-in model cannot be read from {path} ({text}). Install the package again."
        )
    return ModelError(
        f"The model cannot be read from {path} ({text}). Restore the folder, or train the "
        "model again with `retrieval train`."
    )


def _check_size(path: Path) -> None:
    checked_size(path, _MAX_BYTES.get(path.name, 1 << 28))


def _read_bytes(path: Path) -> bytes:
    _check_size(path)
    with path.open("rb") as file:
        return file.read(_MAX_BYTES[path.name])


@contextmanager
def _open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; its errors as ValueError."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(str(error)) from error


# What a model has to look like -----------------------------------------------------------------


def _check_config(config: Config) -> None:
    """Raise ValueError for a number that is missing, of another type or out of bounds."""
    _integer(config, "dim", 1, 1 << 13)
    for part in ("image", "text"):
        if not isinstance(config.get(part), dict):
            raise ValueError(f"it has no {part}")
    image, text = config["image"], config["text"]
    for name, low, high in (("size", 8, 2048), ("stem", 1, 4096), ("top", 1, 1 << 14)):
        _integer(image, name, low, high)
    _integer(image, "queries", 0, 64)
    _integer(text, "heads", 1, 256)
    _integer(text, "longest", 3, 1 << 12)
    if config["dim"] % text["heads"]:
        raise ValueError(f"{text['heads']} heads do not divide {config['dim']} dimensions")
    stages = image.get("stages")
    if not isinstance(stages, list) or not 1 <= len(stages) <= 32:
        raise ValueError("it has no list of at most 32 stages")
    for stage in stages:
        if not isinstance(stage, list) or len(stage) != 5:
            raise ValueError("a stage does not have five numbers")
        names = ("repeats", "kernel", "stride", "expansion", "channels")
        numbers = dict(zip(names, stage, strict=True))
        for name, high in zip(names, (32, 15, 4, 16, 4096), strict=True):
            _integer(numbers, name, 1, high)
        if not numbers["kernel"] % 2:
            raise ValueError("the kernel of a stage is not odd")
    if max(activations for _, _, activations in _convolutions(image)) > _MAX_ACTIVATIONS:
        raise ValueError("its image tower is too large")


def _integer(values: Mapping[str, Any], name: str, low: int, high: int) -> None:
    value = values.get(name)
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} is {str(value)[:20]}, not a whole number from {low} to {high}")


def _convolutions(image: Mapping[str, Any]) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Of each convolution its name, the shape of its weights, and how many numbers it computes."""
    side = -(-image["size"] // 2)
    yield "stem", (image["stem"], 3, 3, 3), image["stem"] * side**2
    number, before = 0, image["stem"]
    for repeats, kernel, stride, expansion, channels in image["stages"]:
        for position in range(repeats):
            block, middle = f"blocks.{number}.", before * expansion
            if expansion > 1:
                yield f"{block}expand", (middle, before, 1, 1), middle * side**2
            side = -(-side // stride) if position == 0 else side
            yield f"{block}depthwise", (middle, 1, kernel, kernel), middle * side**2
            yield f"{block}project", (channels, middle, 1, 1), channels * side**2
            number, before = number + 1, channels
    yield "top", (image["top"], before, 1, 1), image["top"] * side**2


def _check_tensors(config: Config, shapes: Shapes, types: Mapping[str, str]) -> None:
    """Raise ValueError unless the tensors are those of `config`, with the right types."""
    expected = _image_shapes(config, shapes) | _text_shapes(config, shapes)
    codes = {name.removesuffix(".scale") for name in shapes if name.endswith(".scale")}
    matrices = {
        name
        for name, shape in expected.items()
        if name.startswith("text.tower.layers") and len(shape) == 2
    }
    for name in codes | matrices | {"text.tower.words", "image.head.concepts"}:
        if name in expected:
            expected[f"{name}.scale"] = expected[name][:1]
    for name in [name for name in shapes if name.endswith(".input")]:
        if name.startswith("image.tower.") and name.removesuffix(".input") + ".weight" in codes:
            expected[name] = (2,)
    for name in expected:
        if name not in shapes:
            raise ValueError(f"it has no {name}")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(f"{name} is {list(shapes[name])}, not {list(shape)}")
        if not math.prod(shape):
            raise ValueError(f"{name} is empty")
        known = ("I8",) if f"{name}.scale" in expected else _FLOATS
        if types[name] not in known:
            raise ValueError(f"{name} is {types[name]}, not {' or '.join(known)}")
    for name in shapes:
        if name not in expected:
            raise ValueError(f"{name[:60]} has no place in the model")


def _image_shapes(config: Config, found: Shapes) -> Shapes:
    image, dim = config["image"], config["dim"]
    shapes: Shapes = {}
    for name, shape, _ in _convolutions(image):
        shapes[f"image.tower.{name}.weight"] = shape
        shapes[f"image.tower.{name}.bias"] = shape[:1]
    top, queries = image["top"], image["queries"]
    classes = _first(found, "image.head.classifier.bias")
    shapes |= _linear("image.head.linear", dim, top * (1 + queries))
    shapes |= _linear("image.head.classifier", classes, top)
    if queries:
        shapes |= _linear("image.head.query", queries, top)
    shapes["image.head.concepts"] = (classes, dim)
    for name in ("image.head.gate", "image.head.log_sharpness"):
        shapes[name] = () if found.get(name) == () else (1,)
    return shapes


def _text_shapes(config: Config, found: Shapes) -> Shapes:
    width = config["dim"]  # the head adds to the tower's vectors
    tower, head = "text.tower.", "text.head."
    longest = max(_first(found, f"{tower}places"), config["text"]["longest"])
    shapes: Shapes = {
        f"{tower}words": (_first(found, f"{tower}words"), width),
        f"{tower}places": (longest, width),
        f"{tower}norm.weight": (width,),
        f"{tower}norm.bias": (width,),
    }
    layer = 0
    while layer == 0 or f"{tower}layers.{layer}.qkv.weight" in found:
        name = f"{tower}layers.{layer}."
        hidden = _first(found, f"{name}up.bias")
        shapes |= _linear(f"{name}qkv", 3 * width, width) | _linear(f"{name}out", width, width)
        shapes |= _linear(f"{name}up", hidden, width) | _linear(f"{name}down", width, hidden)
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}{norm}.weight": (width,), f"{name}{norm}.bias": (width,)}
        layer += 1
    hidden = _first(found, f"{head}up.bias")
    return shapes | _linear(f"{head}up", hidden, width) | _linear(f"{head}down", width, hidden)


def _linear(name: str, rows: int, columns: int) -> Shapes:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _first(found: Shapes, name: str) -> int:
    """The length of a tensor that may have any; 0 if it is missing."""
    return (found.get(name) or (0,))[0]
