"""The image tower of `mini`: EfficientNet-Lite2 with its batch normalisation folded away.

Importing this module imports torch, so `MiniEncoder` does it when the first photos are encoded.
The tower turns photos into a grid of features, the head turns a grid into an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.lazy_imports import load_torch
from retrieval.encoders.base import Log
from retrieval.encoders.mini.text import below, floats
from retrieval.encoders.torch_runner import ModuleRunner

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
else:
    torch = load_torch()
    nn = torch.nn
    functional = torch.nn.functional

_ON_CPU = 8  # photos at a time; more do not stay in a processor's cache


class SameConv(nn.Module):
    """Convolution with TensorFlow's 'same' padding, a bias and, if asked, ReLU6 after it.

    (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)). TensorFlow pads the right
    and the bottom one more than the left and the top where the padding is odd.
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
        """The convolution itself, by these weights."""
        kernel = weight.shape[2]
        before = kernel // 2
        if self.stride > 1:
            rows, columns = (_missing(size, kernel, self.stride) for size in x.shape[2:])
            left, above = columns // 2, rows // 2
            x = functional.pad(x, (left, columns - left, above, rows - above))
            before = 0
        return functional.conv2d(x, weight, bias, self.stride, before, 1, self.groups)


def _missing(size: int, kernel: int, stride: int) -> int:
    """Padding in all, both sides together, that makes the output ceil(size / stride) long."""
    return max((-(-size // stride) - 1) * stride + kernel - size, 0)


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel, narrow by 1x1; add the input where shapes allow.

    Sandler et al., MobileNetV2, 2018; without squeeze-and-excitation, as EfficientNet-Lite is.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, widen: int) -> None:
        super().__init__()
        middle = c_in * widen
        self.expand = SameConv(c_in, middle) if widen > 1 else nn.Identity()
        self.depthwise = SameConv(middle, middle, kernel, stride, groups=middle)
        self.project = SameConv(middle, c_out, act=False)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return y.add_(x) if self.residual else y


class ImageTower(nn.Module):
    """Photos to a grid of features.

    `stages` lists (repeats, kernel, stride, widening, channels), `stem` and `top` count the
    channels of the first and the last convolution (Tan and Le, EfficientNet, 2019, table 1).
    """

    def __init__(self, stem: int, stages: Sequence[Sequence[int]], top: int) -> None:
        super().__init__()
        self.stem = SameConv(3, stem, 3, 2)
        blocks, c_in = [], stem
        for repeats, kernel, stride, widen, channels in stages:
            for position in range(repeats):
                step = stride if position == 0 else 1
                blocks.append(InvertedResidual(c_in, channels, kernel, step, widen))
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

    The mean of the grid and `queries` attention-weighted means of it go through a linear map.
    To that is added what the ImageNet classifier saw: the mean of its classes' text embeddings
    weighted by their probabilities (Norouzi et al., ConSE, 2014), which knows things that
    the captioned photos never showed.
    """

    def __init__(self, channels: int, queries: int, dim: int, classes: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, queries) if queries else None
        self.linear = nn.Linear(channels * (1 + queries), dim)
        self.classifier = nn.Linear(channels, classes)
        self.gate = nn.Parameter(torch.ones(()))
        self.log_sharpness = nn.Parameter(torch.zeros(()))
        self.dropout = 0.0  # of the linear map's input

    def forward(self, grid: Tensor, concepts: Tensor) -> Tensor:
        """(B, cells, channels) and the classes' (classes, dim) -> (B, dim), unit rows."""
        mean = grid.mean(1)
        views = mean[:, None]
        if self.query is not None:
            attention = self.query(grid).softmax(1)  # (B, cells, queries)
            views = torch.cat([views, attention.transpose(1, 2) @ grid], 1)
        views = functional.layer_norm(views, (self.classifier.in_features,)).flatten(1)
        out = self.linear(functional.dropout(views, self.dropout, self.training))
        seen = (self.classifier(mean) * self.log_sharpness.exp()).softmax(1) @ concepts
        row: Tensor = out + self.gate * functional.normalize(seen, dim=1)
        return functional.normalize(row, dim=1)


class ImageRows(nn.Module):
    """Tower and head in one: photos to embeddings."""

    concepts: Tensor

    def __init__(self, tower: ImageTower, head: ImageHead, concepts: Tensor) -> None:
        super().__init__()
        self.tower, self.head = tower, head
        self.register_buffer("concepts", concepts)

    def forward(self, photos: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 -> (B, dim), unit rows."""
        rows: Tensor = self.head(self.tower(photos).flatten(1, 2).float(), self.concepts)
        return rows


def build_rows(weights: Mapping[str, np.ndarray], shape: Mapping[str, Any]) -> ImageRows:
    """The module of the packaged weights, for inference.

    `weights` are named `tower.*` and `head.*`, `shape` is config.json's `image`. All in float32:
    bfloat16 is twice as fast where there is hardware for it, but its embeddings are as far as
    cosine 0.983 from these.
    Raises KeyError or RuntimeError where the weights are not of this shape.
    """
    tower = build_tower(shape, below(weights, "tower."))
    head = below(weights, "head.")
    state = _state(head)
    concepts = state.pop("concepts")
    classes = len(state["classifier.weight"])
    with torch.device("meta"):
        module = ImageHead(shape["top"], shape["queries"], concepts.shape[1], classes)
    module.load_state_dict(state, assign=True)
    return ImageRows(tower, module, concepts).requires_grad_(False).eval()


class ImageEncoder:
    """Prepared photos to embeddings, on `device`, by the packaged weights."""

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        shape: Mapping[str, Any],
        device: str = "cpu",
        log: Log = lambda _: None,
        compile: bool = False,
    ) -> None:
        """As `build_rows`; the rest as `ModuleRunner`."""
        self._runner = ModuleRunner(
            lambda: build_rows(weights, shape), device, _ON_CPU, log, compile=compile
        )

    @property
    def device(self) -> str:
        """Where photos are computed now."""
        return self._runner.device

    def encode(self, photos: Sequence[np.ndarray]) -> np.ndarray:
        """n of uint8 [S, S, 3] -> float32 [n, dim], unit rows."""
        return self._runner.run(_rows, photos)


def _rows(module: ImageRows, photos: Tensor) -> Tensor:
    rows: Tensor = module(photos)
    return rows


def fast_dtype() -> torch.dtype:
    """bfloat16 where the processor has instructions for it, else float32; for training only."""
    native = ("avx512_bf16", "amx_bf16")
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return torch.bfloat16 if any(has.get(name) for name in native) else torch.float32


def build_tower(shape: Mapping[str, Any], weights: Mapping[str, np.ndarray]) -> ImageTower:
    """An `ImageTower` of `shape` ({stem, stages, top}) with `weights`, ready for inference.

    `weights` are named as the module's parameters, with `NAME.scale` where they are of 8 bits.
    Those are computed with as floats, and what enters a convolution is not rounded as OpenVINO
    rounds it: torch is three times as slow with that, and embeddings are at cosine 0.999 to those
    without. Raises RuntimeError or ValueError where they do not fit.
    """
    with torch.device("meta"):
        tower = ImageTower(shape["stem"], shape["stages"], shape["top"])
    state = _state({k: v for k, v in weights.items() if not k.endswith(".input")})
    tower.load_state_dict(state, assign=True)
    tower.requires_grad_(False)
    return tower.eval().to(memory_format=torch.channels_last)


def _state(weights: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Tensors of a model file as float32 for `load_state_dict`."""
    names = [name for name in weights if not name.endswith(".scale")]
    return {name: torch.from_numpy(floats(weights, name)) for name in names}
