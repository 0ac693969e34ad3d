"""The image side of `mini` as an OpenVINO graph, built directly from the packaged weights.

It computes the same as `mini.image`, which is what training uses; a test compares the two. Indexing
with this one imports no torch, which saves seconds at the start and hundreds of MiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from indexes.arrays import Array, Floats
from indexes.lazy_imports import load_openvino
from retrieval.encoders.mini.quantization import (
    LEVELS,
    Quantization,
    input_quantization,
    weight_bits,
)
from retrieval.encoders.mini.text import float_tensor
from retrieval.encoders.openvino_runner import CompiledGraph

if TYPE_CHECKING:
    from openvino import Model, Node, opset13
else:
    opset13 = load_openvino().opset13

Weights = Mapping[str, Array]
# Photos a core computes at a time; more do not fit into its cache.
_BATCH_SIZE, _BATCH_SIZE_8_BITS = 1, 2


class GraphEncoder:
    """Prepared photos to embeddings, on the CPU."""

    device = "cpu"

    def __init__(self, weights: Weights, shape: Mapping[str, Any]) -> None:
        """weights: named `tower.*` and `head.*`; shape: `image` in config.json.

        Raises KeyError or RuntimeError if the weights do not have this shape, or if the graph does
        not use all of them.
        """
        batch_size = _BATCH_SIZE_8_BITS if weight_bits(weights, "tower.") == 8 else _BATCH_SIZE
        self._graph = CompiledGraph(build_graph(weights, shape), batch_size)

    def encode(self, photos: Sequence[NDArray[np.uint8]]) -> Floats:
        """n of uint8 [S, S, 3] -> float32 [n, dim], unit rows."""
        return self._graph.run(np.stack(photos))


def build_graph(weights: Weights, shape: Mapping[str, Any]) -> Model:
    """The graph from photos, uint8 (B, S, S, 3), to unit rows, float32 (B, dim)."""
    reader = _WeightReader(weights)
    size = int(shape["size"])
    photos = opset13.parameter([-1, size, size, 3], np.uint8, name="photos")
    grid = _tower(reader, opset13.convert(photos, "f32"), size, shape["stages"])
    rows = _head(reader, grid, bool(shape["queries"]))
    reader.check_all_used()
    return load_openvino().Model([rows], [photos], "mini")


class _WeightReader:
    """Returns weights by name, and remembers which have not been used."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._unused = set(weights)

    def array(self, name: str) -> Floats:
        """The tensor as float32, in its own shape."""
        self._unused -= {name, f"{name}.scale"}
        return float_tensor(self._weights, name)

    def codes(self, name: str) -> tuple[NDArray[np.int8], Floats]:
        """The int8 codes, and the scale of each output channel."""
        self._unused -= {name, f"{name}.scale"}
        return self._weights[name], np.asarray(self._weights[f"{name}.scale"], np.float32)

    def input_quantization(self, name: str) -> Quantization | None:
        """How the input of the convolution `name` is quantized; None if it is not."""
        self._unused.discard(f"{name}.input")
        return input_quantization(self._weights, name)

    def check_all_used(self) -> None:
        """Raise KeyError if a tensor was never read."""
        if self._unused:
            raise KeyError(f"{sorted(self._unused)[0]} has no place in the image tower")


# The tower ------------------------------------------------------------------------------------


def _tower(reader: _WeightReader, x: Node, size: int, stages: Sequence[Sequence[int]]) -> Node:
    """(B, S, S, 3) -> (B, cells, channels)."""
    x = opset13.transpose(x, np.array([0, 3, 1, 2]))
    x = opset13.divide(opset13.subtract(x, np.float32(127.0)), np.float32(128.0))
    x, size = _convolution(reader, "tower.stem", x, size, stride=2)
    number = 0
    for repeats, _, stride, expansion, _ in stages:
        for position in range(repeats):
            block_stride = stride if position == 0 else 1
            name = f"tower.blocks.{number}"
            x, size = _residual(reader, name, x, size, block_stride, expansion > 1)
            number += 1
    x, size = _convolution(reader, "tower.top", x, size)
    cells = opset13.reshape(x, np.array([0, _channels(x), size * size]), special_zero=True)
    return opset13.transpose(cells, np.array([0, 2, 1]))


def _residual(
    reader: _WeightReader, name: str, x: Node, size: int, stride: int, expands: bool
) -> tuple[Node, int]:
    """Expand by 1x1, filter each channel, project by 1x1; add the input if shapes are equal."""
    y = _convolution(reader, f"{name}.expand", x, size)[0] if expands else x
    y, after = _convolution(reader, f"{name}.depthwise", y, size, stride, depthwise=True)
    y = _convolution(reader, f"{name}.project", y, after, act=False)[0]
    same_shape = stride == 1 and _channels(x) == _channels(y)
    return (opset13.add(y, x) if same_shape else y), after


def _convolution(
    reader: _WeightReader,
    name: str,
    x: Node,
    size: int,
    stride: int = 1,
    depthwise: bool = False,
    act: bool = True,
) -> tuple[Node, int]:
    """Convolution with TensorFlow's 'same' padding, a bias and, if `act`, a ReLU6.

    Returns the output and the length of its side. With 8-bit weights OpenVINO multiplies integers:
    it recognises a quantized input together with int8 codes that are converted and scaled.
    """
    weight: Any
    scales: Floats | None = None
    quantization = reader.input_quantization(name)
    if quantization is None:
        weight = reader.array(f"{name}.weight")
    else:
        weight, scales = reader.codes(f"{name}.weight")
        limits = np.float32(quantization.low), np.float32(quantization.high)
        x = opset13.fake_quantize(x, *limits, *limits, LEVELS)
    kernel = weight.shape[-1]
    if depthwise:
        weight = weight[:, None]  # (C, 1, 1, k, k)
    if scales is not None:
        per_channel = scales.reshape(-1, *[1] * (weight.ndim - 1))
        weight = opset13.multiply(opset13.convert(opset13.constant(weight), "f32"), per_channel)
    after = -(-size // stride)
    padding = max((after - 1) * stride + kernel - size, 0)
    begin, end = [padding // 2] * 2, [padding - padding // 2] * 2
    convolve = opset13.group_convolution if depthwise else opset13.convolution
    x = convolve(x, weight, [stride] * 2, begin, end, [1, 1])
    x = opset13.add(x, reader.array(f"{name}.bias")[None, :, None, None])
    return (opset13.clamp(x, 0.0, 6.0) if act else x), after


def _channels(x: Node) -> int:
    """C of (B, C, H, W)."""
    return int(x.output(0).partial_shape[1].get_length())


# The head -------------------------------------------------------------------------------------


def _head(reader: _WeightReader, grid: Node, has_queries: bool) -> Node:
    """(B, cells, channels) -> (B, dim), unit rows; see `ImageHead` for what is computed."""
    mean = opset13.reduce_mean(grid, np.array([1]), keep_dims=True)
    pooled = mean
    if has_queries:
        attention = opset13.softmax(_linear(reader, "head.query", grid), 1)
        pooled = opset13.concat([mean, opset13.matmul(attention, grid, True, False)], 1)
    pooled = opset13.mvn(pooled, np.array([2]), True, 1e-5, "inside_sqrt")
    out = _linear(reader, "head.linear", _flat(pooled))
    with np.errstate(over="ignore"):  # what it computes is checked
        sharpness = np.exp(reader.array("head.log_sharpness"))
    logits = opset13.multiply(_linear(reader, "head.classifier", _flat(mean)), sharpness)
    # Transposed here: OpenVINO takes eight times as long to transpose the constant.
    concepts = np.ascontiguousarray(reader.array("head.concepts").T)
    classes = _unit(opset13.matmul(opset13.softmax(logits, 1), concepts, False, True))
    return _unit(opset13.add(out, opset13.multiply(classes, reader.array("head.gate"))))


def _flat(x: Node) -> Node:
    return opset13.reshape(x, np.array([0, -1]), special_zero=True)


def _linear(reader: _WeightReader, name: str, x: Node) -> Node:
    weight, bias = reader.array(f"{name}.weight"), reader.array(f"{name}.bias")
    return opset13.add(opset13.matmul(x, weight, False, True), bias)


def _unit(x: Node) -> Node:
    return opset13.normalize_l2(x, np.array([1]), 1e-24, "max")
