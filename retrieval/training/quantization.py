"""Post-training quantization of the photo tower to 8 bits: a third faster, at half the size.

Weights become int8 codes with a scale for each channel; the input of a convolution is rounded to
256 levels. The mean shift that this causes in a channel, measured on a few photos, is subtracted
from its bias (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction,
2019). How encoders read the result is in `retrieval.encoders.mini.quantization`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexes.arrays import Array
from indexes.lazy_imports import load_torch
from retrieval.encoders.mini.image import ImageTower, SameConv
from retrieval.encoders.mini.quantization import LEVELS, Quantization

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.nn import functional
else:
    torch = load_torch()
    functional = torch.nn.functional

Arrays = dict[str, Array]

SAMPLE_PHOTOS = 32
"""Photos from which the input ranges of convolutions are measured."""
LARGEST_CODE = 63
"""The largest code of a weight. Seven bits, because processors without instructions for 8-bit
networks (VNNI) add two products in 16 bits, which larger codes overflow; all processors should
compute the same."""


def quantize(tower: ImageTower, photos: NDArray[np.uint8]) -> Arrays:
    """The tower's tensors in 8 bits, by name; the tower itself is not changed.

    photos: typical photos, uint8 [n, S, S, 3]; each takes 20 MB of memory at 224 pixels. For each
    convolution NAME the result has `NAME.weight`, int8 in its shape, `NAME.weight.scale`, float32
    [channels], `NAME.input` (`Quantization.as_tensor`) and `NAME.bias`, float16 [channels].
    """
    return _Quantizer(tower).run(torch.from_numpy(photos).to(tower.stem.weight.device))


class _Quantizer:
    """Passes photos through the tower exactly and, in parallel, rounded as after quantization."""

    def __init__(self, tower: ImageTower) -> None:
        self.tower = tower
        self.names = {module: name for name, module in tower.named_modules()}
        self.arrays: Arrays = {}

    @torch.inference_mode()
    def run(self, photos: Tensor) -> Arrays:
        x = (photos.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        # The levels of the first input are the 256 values of a pixel.
        exact, quantized = self.convolution(self.tower.stem, x, x, Quantization(1 / 128, 127))
        for block in self.tower.blocks:
            before = exact, quantized
            for part in (block.expand, block.depthwise, block.project):
                if isinstance(part, SameConv):
                    exact, quantized = self.convolution(part, exact, quantized)
            if block.residual:
                exact, quantized = exact + before[0], quantized + before[1]
        self.convolution(self.tower.top, exact, quantized)
        return self.arrays

    def convolution(
        self, layer: SameConv, exact: Tensor, quantized: Tensor, levels: Quantization | None = None
    ) -> tuple[Tensor, Tensor]:
        """Quantize one convolution; returns its output for the exact and for the rounded input."""
        name, weight, bias = self.names[layer], layer.weight, layer.bias
        levels = levels or _levels_for(quantized)
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / LARGEST_CODE
        step = scale[:, None, None, None]
        codes = (weight / step).round()
        exact = layer.convolve(exact, weight, bias)
        quantized = layer.convolve(round_to_levels(quantized, levels), codes * step, bias)
        shift = (quantized - exact).mean((0, 2, 3))
        quantized = quantized - shift[:, None, None]
        self.arrays |= {
            f"{name}.weight": codes.to(torch.int8).cpu().numpy(),
            f"{name}.weight.scale": scale.cpu().numpy(),
            f"{name}.input": levels.as_tensor(),
            f"{name}.bias": (bias - shift).half().cpu().numpy(),
        }
        if layer.act:
            exact, quantized = functional.relu6(exact), functional.relu6(quantized)
        return exact, quantized


def round_to_levels(x: Tensor, levels: Quantization) -> Tensor:
    """Every number replaced by the nearest level, in the shape of x."""
    return torch.fake_quantize_per_tensor_affine(x, levels.scale, levels.zero_point, 0, LEVELS - 1)


def _levels_for(x: Tensor) -> Quantization:
    """Levels that cover the range of `x`; they start at zero if no number is negative."""
    largest = max(float(x.abs().max()), 1e-6)
    if float(x.min()) >= 0:
        return Quantization(largest / (LEVELS - 1), 0)
    return Quantization(largest / (LEVELS // 2 - 1), LEVELS // 2)
