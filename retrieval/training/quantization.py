"""The photo tower in 8 bits, after it has learned: a third faster on any CPU, at half the size.

Weights become int8 codes with a scale for each channel; what enters a convolution is rounded to 256
levels. What that shifts a channel by, on the mean over a few photos, its bias takes back (Nagel et
al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019).
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

PHOTOS = 32
"""So many photos show what range a convolution's input has."""
MOST = 63
"""The largest code of a weight. Seven bits: processors without instructions for 8-bit networks
(VNNI) add two products in 16 bits, which larger codes overflow, and all are to compute the same."""


def quantised(tower: ImageTower, photos: NDArray[np.uint8]) -> Arrays:
    """The tower's tensors in 8 bits, by name; the tower itself stays as it is.

    photos: some that are like those to come, uint8 [n, S, S, 3]; it takes 20 MB of memory for each
    at 224 pixels. For each convolution NAME: `NAME.weight`, int8 in its shape, `NAME.weight.scale`,
    float32 [channels], `NAME.input` (see `mini_levels`) and `NAME.bias`, float16 [channels].
    """
    return _Walk(tower).go(torch.from_numpy(photos).to(tower.stem.weight.device))


class _Walk:
    """Goes through the tower with the photos as floats and as rounded ones, side by side."""

    def __init__(self, tower: ImageTower) -> None:
        self.tower = tower
        self.names = {module: name for name, module in tower.named_modules()}
        self.arrays: Arrays = {}

    @torch.inference_mode()
    def go(self, photos: Tensor) -> Arrays:
        x = (photos.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        # The levels of the first input are the 256 values of a pixel.
        exact, coarse = self.convolution(self.tower.stem, x, x, Quantization(1 / 128, 127))
        for block in self.tower.blocks:
            before = exact, coarse
            for part in (block.expand, block.depthwise, block.project):
                if isinstance(part, SameConv):
                    exact, coarse = self.convolution(part, exact, coarse)
            if block.residual:
                exact, coarse = exact + before[0], coarse + before[1]
        self.convolution(self.tower.top, exact, coarse)
        return self.arrays

    def convolution(
        self, layer: SameConv, exact: Tensor, coarse: Tensor, levels: Quantization | None = None
    ) -> tuple[Tensor, Tensor]:
        """One convolution: what leaves it where floats entered, and where rounded numbers did."""
        name, weight, bias = self.names[layer], layer.weight, layer.bias
        levels = levels or _levels_for(coarse)
        scale = weight.flatten(1).abs().amax(1).clamp_min(1e-12) / MOST
        each = scale[:, None, None, None]
        codes = (weight / each).round()
        exact = layer.convolve(exact, weight, bias)
        coarse = layer.convolve(rounded(coarse, levels), codes * each, bias)
        shift = (coarse - exact).mean((0, 2, 3))
        coarse = coarse - shift[:, None, None]
        self.arrays |= {
            f"{name}.weight": codes.to(torch.int8).cpu().numpy(),
            f"{name}.weight.scale": scale.cpu().numpy(),
            f"{name}.input": levels.as_tensor(),
            f"{name}.bias": (bias - shift).half().cpu().numpy(),
        }
        if layer.act:
            exact, coarse = functional.relu6(exact), functional.relu6(coarse)
        return exact, coarse


def rounded(x: Tensor, levels: Quantization) -> Tensor:
    """Every number as the nearest of the levels, in x's shape."""
    return torch.fake_quantize_per_tensor_affine(x, levels.scale, levels.zero_point, 0, LEVELS - 1)


def _levels_for(x: Tensor) -> Quantization:
    """Levels that reach as far as `x` does: from zero where nothing is below it."""
    most = max(float(x.abs().max()), 1e-6)
    if float(x.min()) >= 0:
        return Quantization(most / (LEVELS - 1), 0)
    return Quantization(most / (LEVELS // 2 - 1), LEVELS // 2)
