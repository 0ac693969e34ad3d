"""The image tower of `mini` as an OpenVINO graph, made straight from the packaged weights.

The same arithmetic as `mini_image`, which trains it: a test holds the two together. Indexing with
this one imports no torch, which spares seconds at the start and hundreds of MiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_openvino
from retrieval.encoders.mini.quantization import LEVELS, Levels, bits_of, levels_of
from retrieval.encoders.mini.text import floats
from retrieval.encoders.openvino_runner import CompiledGraph

if TYPE_CHECKING:
    from openvino import Model, Node, opset13
else:
    opset13 = load_openvino().opset13

Weights = Mapping[str, Array]
_TILE, _TILE_OF_8_BITS = 1, 2  # photos at a time on a core; more do not stay in its cache


class GraphEncoder:
    """Prepared photos to embeddings, on the CPU, by the packaged weights."""

    device = "cpu"

    def __init__(self, weights: Weights, shape: Mapping[str, Any]) -> None:
        """`weights` are named `tower.*` and `head.*`, `shape` is config.json's `image`.

        Raises KeyError or RuntimeError where the weights are not of this shape, also where there
        are more of them than are used here.
        """
        tile = _TILE_OF_8_BITS if bits_of(weights, "tower.") == 8 else _TILE
        self._graph = CompiledGraph(build_graph(weights, shape), tile)

    def encode(self, photos: Sequence[NDArray[np.uint8]]) -> Floats:
        """n of uint8 [S, S, 3] -> float32 [n, dim], unit rows."""
        return self._graph.run(np.stack(photos))


def build_graph(weights: Weights, shape: Mapping[str, Any]) -> Model:
    """Photos, uint8 (B, S, S, 3), to unit rows, float32 (B, dim)."""
    take = _Taker(weights)
    size = int(shape["size"])
    photos = opset13.parameter([-1, size, size, 3], np.uint8, name="photos")
    grid = _tower(take, opset13.convert(photos, "f32"), size, shape["stages"])
    rows = _head(take, grid, bool(shape["queries"]))
    take.check_all_taken()
    return load_openvino().Model([rows], [photos], "mini")


class _Taker:
    """Hands out weights as float32 constants, and knows which nobody asked for."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._left = set(weights)

    def array(self, name: str) -> Floats:
        self._left -= {name, f"{name}.scale"}
        return floats(self._weights, name)

    def codes(self, name: str) -> tuple[NDArray[np.int8], Floats]:
        """Int8 codes as they are, and the scale of each channel."""
        self._left -= {name, f"{name}.scale"}
        return self._weights[name], np.asarray(self._weights[f"{name}.scale"], np.float32)

    def levels(self, name: str) -> Levels | None:
        self._left.discard(f"{name}.input")
        return levels_of(self._weights, name)

    def check_all_taken(self) -> None:
        if self._left:
            raise KeyError(f"{sorted(self._left)[0]} has no place in the image tower")


# The tower ------------------------------------------------------------------------------------


def _tower(take: _Taker, x: Node, size: int, stages: Sequence[Sequence[int]]) -> Node:
    """(B, S, S, 3) -> (B, cells, channels)."""
    x = opset13.transpose(x, np.array([0, 3, 1, 2]))
    x = opset13.divide(opset13.subtract(x, np.float32(127.0)), np.float32(128.0))
    x, size = _convolution(take, "tower.stem", x, size, stride=2)
    number = 0
    for repeats, _, stride, widen, _ in stages:
        for position in range(repeats):
            step = stride if position == 0 else 1
            x, size = _residual(take, f"tower.blocks.{number}", x, size, step, widen > 1)
            number += 1
    x, size = _convolution(take, "tower.top", x, size)
    cells = opset13.reshape(x, np.array([0, _channels(x), size * size]), special_zero=True)
    return opset13.transpose(cells, np.array([0, 2, 1]))


def _residual(
    take: _Taker, name: str, x: Node, size: int, stride: int, widens: bool
) -> tuple[Node, int]:
    """Widen by 1x1, filter each channel, narrow by 1x1; add the input where shapes allow."""
    y = _convolution(take, f"{name}.expand", x, size)[0] if widens else x
    y, after = _convolution(take, f"{name}.depthwise", y, size, stride, depthwise=True)
    y = _convolution(take, f"{name}.project", y, after, act=False)[0]
    alike = stride == 1 and _channels(x) == _channels(y)
    return (opset13.add(y, x) if alike else y), after


def _convolution(
    take: _Taker,
    name: str,
    x: Node,
    size: int,
    stride: int = 1,
    depthwise: bool = False,
    act: bool = True,
) -> tuple[Node, int]:
    """Convolution padded as TensorFlow's 'same', bias, ReLU6 if asked; and its side's length.

    In 8 bits where the weights are: OpenVINO multiplies integers where it finds what it is given
    rounded to levels, and codes that are widened and scaled.
    """
    weight: Any
    scales: Floats | None = None
    levels = take.levels(name)
    if levels is None:
        weight = take.array(f"{name}.weight")
    else:
        weight, scales = take.codes(f"{name}.weight")
        ends = np.float32(levels.low), np.float32(levels.high)
        x = opset13.fake_quantize(x, *ends, *ends, LEVELS)
    kernel = weight.shape[-1]
    if depthwise:
        weight = weight[:, None]  # (C, 1, 1, k, k)
    if scales is not None:
        each = scales.reshape(-1, *[1] * (weight.ndim - 1))
        weight = opset13.multiply(opset13.convert(opset13.constant(weight), "f32"), each)
    after = -(-size // stride)
    missing = max((after - 1) * stride + kernel - size, 0)
    before, behind = [missing // 2] * 2, [missing - missing // 2] * 2
    convolve = opset13.group_convolution if depthwise else opset13.convolution
    x = convolve(x, weight, [stride] * 2, before, behind, [1, 1])
    x = opset13.add(x, take.array(f"{name}.bias")[None, :, None, None])
    return (opset13.clamp(x, 0.0, 6.0) if act else x), after


def _channels(x: Node) -> int:
    """C of (B, C, H, W)."""
    return int(x.output(0).partial_shape[1].get_length())


# The head -------------------------------------------------------------------------------------


def _head(take: _Taker, grid: Node, has_queries: bool) -> Node:
    """(B, cells, channels) -> (B, dim), unit rows; `ImageHead` says what is computed."""
    mean = opset13.reduce_mean(grid, np.array([1]), keep_dims=True)
    views = mean
    if has_queries:
        attention = opset13.softmax(_linear(take, "head.query", grid), 1)
        views = opset13.concat([mean, opset13.matmul(attention, grid, True, False)], 1)
    views = opset13.mvn(views, np.array([2]), True, 1e-5, "inside_sqrt")
    out = _linear(take, "head.linear", _flat(views))
    seen = opset13.multiply(
        _linear(take, "head.classifier", _flat(mean)), np.exp(take.array("head.log_sharpness"))
    )
    # Transposed by us: as a constant that OpenVINO would have to turn it takes eight times as long.
    concepts = np.ascontiguousarray(take.array("head.concepts").T)
    seen = _unit(opset13.matmul(opset13.softmax(seen, 1), concepts, False, True))
    return _unit(opset13.add(out, opset13.multiply(seen, take.array("head.gate"))))


def _flat(x: Node) -> Node:
    return opset13.reshape(x, np.array([0, -1]), special_zero=True)


def _linear(take: _Taker, name: str, x: Node) -> Node:
    weight, bias = take.array(f"{name}.weight"), take.array(f"{name}.bias")
    return opset13.add(opset13.matmul(x, weight, False, True), bias)


def _unit(x: Node) -> Node:
    return opset13.normalize_l2(x, np.array([1]), 1e-24, "max")
