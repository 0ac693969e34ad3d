"""The image side of `mini` in torch: EfficientNet-Lite2 with its batch normalisation folded in.

The tower turns photos into a grid of features, the head turns a grid into an embedding. Importing
this module imports torch, so `MiniEncoder` does that when the first photos are encoded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log
from retrieval.encoders.mini.text import float_tensor, strip_prefix
from retrieval.encoders.torch_runner import ModuleRunner

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
else:
    torch = load_torch()
    nn = torch.nn
    functional = torch.nn.functional

_CPU_BATCH_SIZE = 8  # photos; more do not fit into the processor's cache


class SameConv(nn.Module):
    """Convolution with TensorFlow's 'same' padding, a bias and, if `act`, a ReLU6.

    (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)). If the padding is odd,
    TensorFlow pads the right and the bottom by one more than the left and the top.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(c_out, c_in // groups, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(c_out))
        self.stride, self.groups, self.act = stride, groups, act

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolve(x, self.weight, self.bias)
        return functional.relu6(x, inplace=True) if self.act else x

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution alone, with the given weights."""
        kernel = weight.shape[2]
        padding = kernel // 2
        if self.stride > 1:
            rows, columns = (_total_padding(size, kernel, self.stride) for size in x.shape[2:])
            left, top = columns // 2, rows // 2
            x = functional.pad(x, (left, columns - left, top, rows - top))
            padding = 0
        return functional.conv2d(x, weight, bias, self.stride, padding, 1, self.groups)


def _total_padding(size: int, kernel: int, stride: int) -> int:
    """Padding of both sides together that makes the output ceil(size / stride) long."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1; add the input if the shapes are equal.

    Sandler et al., MobileNetV2, 2018; without squeeze-and-excitation, as in EfficientNet-Lite.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = c_in * expansion
        self.expand = SameConv(c_in, middle) if expansion > 1 else nn.Identity()
        self.depthwise = SameConv(middle, middle, kernel, stride, groups=middle)
        self.project = SameConv(middle, c_out, act=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.residual else y


class ImageTower(nn.Module):
    """Photos to a grid of features.

    stages: (repeats, kernel, stride, expansion, channels) of each; stem, top: channels of the first
    and of the last convolution (Tan and Le, EfficientNet, 2019, table 1).
    """

    def __init__(self, stem: int, stages: Sequence[Sequence[int]], top: int) -> None:
        super().__init__()
        self.stem = SameConv(3, stem, 3, 2)
        blocks, c_in = [], stem
        for repeats, kernel, stride, expansion, channels in stages:
            for position in range(repeats):
                block_stride = stride if position == 0 else 1
                blocks.append(InvertedResidual(c_in, channels, kernel, block_stride, expansion))
                c_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.top = SameConv(c_in, top)

    def forward(self, photos: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, G, G, top), G = ceil(S / 32), in the weights' dtype."""
        x = photos.permute(0, 3, 1, 2).to(self.stem.weight.dtype)  # channels-last in memory
        x = self.top(self.blocks(self.stem((x - 127.0) / 128.0)))
        grid: Tensor = x.permute(0, 2, 3, 1)
        return grid


class ImageHead(nn.Module):
    """A grid of features to a unit row of the space shared with the texts.

    A linear layer maps the mean of the grid and `queries` attention-weighted means of it. Added to
    its output is the mean of the ImageNet classes' text embeddings, weighted by the classifier's
    probabilities (Norouzi et al., ConSE, 2014). It knows things that no captioned photo of the
    training set shows.
    """

    def __init__(self, channels: int, queries: int, dim: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, queries) if queries else None
        self.linear = nn.Linear(channels * (1 + queries), dim)
        self.classifier = nn.Linear(channels, classes)
        self.gate = nn.Parameter(torch.ones(()))
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.dropout = 0.0  # of the linear layer's input

    def forward(self, grid: Tensor, concepts: Tensor) -> Tensor:
        """grid (B, cells, channels), concepts (classes, dim) -> (B, dim), unit rows.

        concepts: the text embeddings of the classes.
        """
        mean = grid.mean(1)
        pooled = mean[:, None]
        if self.query is not None:
            attention = self.query(grid).softmax(1)  # (B, cells, queries)
            pooled = torch.cat([pooled, attention.transpose(1, 2) @ grid], 1)
        pooled = functional.layer_norm(pooled, (self.classifier.in_features,)).flatten(1)
        out = self.linear(functional.dropout(pooled, self.dropout, self.training))
        classes = (self.classifier(mean) * self.log_sharpness.exp()).softmax(1) @ concepts
        row: Tensor = out + self.gate * functional.normalize(classes, dim=1)
        return functional.normalize(row, dim=1)


class ImageModel(nn.Module):
    """Tower and head together: photos to embeddings."""

    concepts: Tensor

    def __init__(self, tower: ImageTower, head: ImageHead, concepts: Tensor) -> None:
        super().__init__()
        self.tower, self.head = tower, head
        self.register_buffer("concepts", concepts)

    def forward(self, photos: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, dim), unit rows."""
        rows: Tensor = self.head(self.tower(photos).flatten(1, 2).float(), self.concepts)
        return rows


def build_model(weights: Mapping[str, np.ndarray], shape: Mapping[str, Any]) -> ImageModel:
    """The model with these weights, for inference.

    weights: named `tower.*` and `head.*`; shape: `image` in config.json. It computes in float32.
    bfloat16 is twice as fast on hardware that supports it, but the cosine between its embeddings
    and these goes down to 0.983.
    Raises KeyError or RuntimeError if the weights do not have this shape.
    """
    tower = build_tower(shape, strip_prefix(weights, "tower."))
    head = strip_prefix(weights, "head.")
    state = _state(head)
    concepts = state.pop("concepts")
    classes = len(state["classifier.weight"])
    with torch.device("meta"):
        module = ImageHead(shape["top"], shape["queries"], concepts.shape[1], classes)
    module.load_state_dict(state, assign=True)
    return ImageModel(tower, module, concepts).requires_grad_(False).eval()


class ImageEncoder:
    """Prepared photos to embeddings, on `device`."""

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        shape: Mapping[str, Any],
        device: str = "cpu",
        log: Log = lambda _: None,
        compile: bool = False,
    ) -> None:
        """weights, shape: as for `build_model`; the rest as for `ModuleRunner`."""
        self._runner = ModuleRunner(
            lambda: build_model(weights, shape), device, _CPU_BATCH_SIZE, log, compile=compile
        )

    @property
    def device(self) -> str:
        """Where photos are currently computed, as torch names it."""
        return self._runner.device

    def encode(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """n of uint8 [S, S, 3] -> float32 [n, dim], unit rows."""
        return self._runner.run(_forward, photos)


def _forward(model: ImageModel, photos: Tensor) -> Tensor:
    rows: Tensor = model(photos)
    return rows


def fast_dtype() -> torch.dtype:
    """bfloat16 if the processor has instructions for it, else float32; for training only."""
    names = ("avx512_bf16", "amx_bf16")
    features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if any(features.get(name) for name in names) else torch.float32


def build_tower(shape: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> ImageTower:
    """An `ImageTower` of `shape` ({stem, stages, top}) with `weights`, ready for inference.

    weights: named as the module's parameters, with `NAME.scale` for those in 8 bits. 8-bit weights
    are converted to floats, and the inputs of convolutions are not quantized as they are in
    OpenVINO: that would make torch three times as slow, and the cosine between embeddings with and
    without it is 0.999. Raises RuntimeError or ValueError if the weights do not fit.
    """
    with torch.device("meta"):
        tower = ImageTower(shape["stem"], shape["stages"], shape["top"])
    state = _state({k: v for k, v in weights.items() if not k.endswith(".input")})
    tower.load_state_dict(state, assign=True)
    tower.requires_grad_(False)
    return tower.eval().to(memory_format=torch.channels_last)


def _state(weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The tensors of a model file as float32, for `load_state_dict`."""
    names = [name for name in weights if not name.endswith(".scale")]
    return {name: torch.from_numpy(float_tensor(weights, name)) for name in names}
